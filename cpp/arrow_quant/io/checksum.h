#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace arrow_quant {

// XXH64 (seed 0) of bytes that arrive in pieces. It finds accidental damage; it is no protection against an attacker.
// Source: the public specification of xxHash, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md.
class Xxh64 {
 public:
  Xxh64();

  void Update(const void* data, std::size_t size);

  // Hash of everything so far; Update may follow.
  std::uint64_t Digest() const;

 private:
  void Block(const std::uint8_t* p);

  std::array<std::uint64_t, 4> lanes_;
  std::array<std::uint8_t, 32> tail_{};
  std::size_t tail_size_ = 0;
  std::uint64_t total_ = 0;
};

// "xxh64:" and 16 lower-case hexadecimal digits.
std::string FormatChecksum(std::uint64_t digest);

// Checksum of a whole file, read in pieces. Throws Error kIo.
std::string ChecksumFile(const std::filesystem::path& path);

}  // namespace arrow_quant
