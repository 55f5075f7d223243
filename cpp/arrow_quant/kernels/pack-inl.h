#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant {
namespace {

// PackBlock and UnpackBlock of the vector header handle 16 codes, 2 * kBits bytes.

template <int kBits>
void PackBits(const std::uint8_t* codes, std::size_t n, std::uint8_t* bytes) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes, bytes += 2 * kBits) PackBlock<kBits>(codes + i, bytes);
  if (i == n) return;
  std::uint8_t block[kLanes] = {};
  std::uint8_t packed[2 * kBits];
  CopyBytes(block, codes + i, n - i);
  PackBlock<kBits>(block, packed);
  CopyBytes(bytes, packed, ((n - i) * kBits + 7) / 8);
}

template <int kBits>
void UnpackBits(const std::uint8_t* bytes, std::size_t n, std::uint8_t* codes) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes, bytes += 2 * kBits) UnpackBlock<kBits>(bytes, codes + i);
  if (i == n) return;
  std::uint8_t packed[2 * kBits] = {};
  std::uint8_t block[kLanes];
  CopyBytes(packed, bytes, ((n - i) * kBits + 7) / 8);
  UnpackBlock<kBits>(packed, block);
  CopyBytes(codes + i, block, n - i);
}

void Pack(const std::uint8_t* codes, std::size_t n, int bits, std::uint8_t* bytes) noexcept {
  switch (bits) {
    case 2:
      return PackBits<2>(codes, n, bytes);
    case 3:
      return PackBits<3>(codes, n, bytes);
    case 4:
      return PackBits<4>(codes, n, bytes);
    default:
      return CopyBytes(bytes, codes, n);
  }
}

void Unpack(const std::uint8_t* bytes, std::size_t n, int bits, std::uint8_t* codes) noexcept {
  switch (bits) {
    case 2:
      return UnpackBits<2>(bytes, n, codes);
    case 3:
      return UnpackBits<3>(bytes, n, codes);
    case 4:
      return UnpackBits<4>(bytes, n, codes);
    default:
      return CopyBytes(codes, bytes, n);
  }
}

}  // namespace
}  // namespace arrow_quant
