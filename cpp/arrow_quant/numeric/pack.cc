#include "arrow_quant/numeric/pack.h"

namespace arrow_quant {
namespace {

// Eight codes of b bits are b whole bytes, so the stream is a sequence of such blocks and one shorter block.
constexpr std::size_t kBlock = 8;

void PackBlock(const std::uint8_t* codes, std::size_t n, int bits, std::uint8_t* bytes) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < n; ++i) word |= std::uint64_t{codes[i]} << (i * static_cast<std::size_t>(bits));
  const std::size_t size = (n * static_cast<std::size_t>(bits) + 7) / 8;
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::uint8_t>(word >> (8 * i));
}

void UnpackBlock(const std::uint8_t* bytes, std::size_t n, int bits, std::uint8_t* codes) {
  const std::size_t size = (n * static_cast<std::size_t>(bits) + 7) / 8;
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < size; ++i) word |= std::uint64_t{bytes[i]} << (8 * i);
  const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
  for (std::size_t i = 0; i < n; ++i) {
    codes[i] = static_cast<std::uint8_t>((word >> (i * static_cast<std::size_t>(bits))) & mask);
  }
}

}  // namespace

void PackCodes(const std::uint8_t* codes, std::size_t n, int bits, std::uint8_t* bytes) noexcept {
  for (; n >= kBlock; n -= kBlock, codes += kBlock, bytes += bits) PackBlock(codes, kBlock, bits, bytes);
  if (n > 0) PackBlock(codes, n, bits, bytes);
}

void UnpackCodes(const std::uint8_t* bytes, std::size_t n, int bits, std::uint8_t* codes) noexcept {
  for (; n >= kBlock; n -= kBlock, codes += kBlock, bytes += bits) UnpackBlock(bytes, kBlock, bits, codes);
  if (n > 0) UnpackBlock(bytes, n, bits, codes);
}

}  // namespace arrow_quant
