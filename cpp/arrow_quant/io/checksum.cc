#include "arrow_quant/io/checksum.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "arrow_quant/io/atomic_file.h"

namespace arrow_quant {
namespace {

constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87ULL;
constexpr std::uint64_t kPrime2 = 0xC2B2AE3D27D4EB4FULL;
constexpr std::uint64_t kPrime3 = 0x165667B19E3779F9ULL;
constexpr std::uint64_t kPrime4 = 0x85EBCA77C2B2AE63ULL;
constexpr std::uint64_t kPrime5 = 0x27D4EB2F165667C5ULL;

template <typename T>
std::uint64_t ReadWord(const std::uint8_t* p) {
  static_assert(std::endian::native == std::endian::little);
  T word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

std::uint64_t Round(std::uint64_t lane, std::uint64_t word) { return std::rotl(lane + word * kPrime2, 31) * kPrime1; }

std::uint64_t Finish(std::uint64_t hash, const std::uint8_t* p, std::size_t size) {
  for (; size >= 8; p += 8, size -= 8) {
    hash = std::rotl(hash ^ Round(0, ReadWord<std::uint64_t>(p)), 27) * kPrime1 + kPrime4;
  }
  for (; size >= 4; p += 4, size -= 4) {
    hash = std::rotl(hash ^ (ReadWord<std::uint32_t>(p) * kPrime1), 23) * kPrime2 + kPrime3;
  }
  for (; size > 0; ++p, --size) hash = std::rotl(hash ^ (*p * kPrime5), 11) * kPrime1;
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

}  // namespace

Xxh64::Xxh64() : lanes_{kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1} {}

void Xxh64::Block(const std::uint8_t* p) {
  for (std::size_t i = 0; i < 4; ++i) lanes_[i] = Round(lanes_[i], ReadWord<std::uint64_t>(p + 8 * i));
}

void Xxh64::Update(const void* data, std::size_t size) {
  if (size == 0) return;
  const auto* p = static_cast<const std::uint8_t*>(data);
  total_ += size;
  if (tail_size_ > 0) {
    const std::size_t taken = std::min(size, tail_.size() - tail_size_);
    std::memcpy(tail_.data() + tail_size_, p, taken);
    tail_size_ += taken;
    p += taken;
    size -= taken;
    if (tail_size_ < tail_.size()) return;
    Block(tail_.data());
    tail_size_ = 0;
  }
  for (; size >= tail_.size(); p += tail_.size(), size -= tail_.size()) Block(p);
  if (size > 0) std::memcpy(tail_.data(), p, size);
  tail_size_ = size;
}

std::uint64_t Xxh64::Digest() const {
  std::uint64_t hash = kPrime5;
  if (total_ >= tail_.size()) {
    hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
    for (const std::uint64_t lane : lanes_) hash = (hash ^ Round(0, lane)) * kPrime1 + kPrime4;
  }
  return Finish(hash + total_, tail_.data(), tail_size_);
}

std::string FormatChecksum(std::uint64_t digest) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "xxh64:";
  for (int shift = 60; shift >= 0; shift -= 4) text += kDigits[(digest >> shift) & 15];
  return text;
}

std::string ChecksumFile(const std::filesystem::path& path) {
  Xxh64 hash;
  ForEachBlock(path, [&](const void* data, std::size_t size) { hash.Update(data, size); });
  return FormatChecksum(hash.Digest());
}

}  // namespace arrow_quant
