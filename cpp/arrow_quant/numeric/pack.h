#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant {

// Definition of the packed form: a little-endian bit stream in which code k occupies bits [k*bits, (k+1)*bits), least
// significant first; bits in {2, 3, 4, 8}; every code is below 2^bits. `bytes` holds (n*bits + 7) / 8 bytes; unused
// high bits of the last are 0. The SIMD kernels give the same bytes.
void PackCodes(const std::uint8_t* codes, std::size_t n, int bits, std::uint8_t* bytes) noexcept;

// Inverse of PackCodes.
void UnpackCodes(const std::uint8_t* bytes, std::size_t n, int bits, std::uint8_t* codes) noexcept;

}  // namespace arrow_quant
