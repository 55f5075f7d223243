#pragma once

// Byte access for the kernels; builtins, because standard headers would bring in inline functions of external linkage.

#include <cstddef>
#include <cstdint>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "packed codes are read as little-endian words"
#endif

namespace arrow_quant {
namespace {

constexpr std::size_t kLanes = 16;

inline void CopyBytes(std::uint8_t* to, const std::uint8_t* from, std::size_t n) {
  if (n > 0) __builtin_memcpy(to, from, n);
}

inline std::uint64_t LoadWord(const std::uint8_t* p) {
  std::uint64_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return word;
}

}  // namespace
}  // namespace arrow_quant
