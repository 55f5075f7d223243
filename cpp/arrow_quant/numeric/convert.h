#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/base/dtype.h"

namespace arrow_quant {

// Exact values of the small floating-point formats. NaN stays NaN, infinities, signed zeros and denormals are kept.

// 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinities, NaN is 0x7f and 0xff, the largest value is 448.
float F8E4M3ToFloat(std::uint8_t bits);
// 1 sign, 5 exponent (bias 15), 2 mantissa bits, with infinities, as the upper half of an IEEE half.
float F8E5M2ToFloat(std::uint8_t bits);
// IEEE binary16. A signalling NaN becomes quiet, as in the F16C instructions.
float F16ToFloat(std::uint16_t bits);
// The upper half of a float.
float BF16ToFloat(std::uint16_t bits);

// Rounds to nearest, ties to even; too large becomes infinity, NaN becomes a quiet NaN of the same sign.
std::uint16_t FloatToF16(float value);
std::uint16_t FloatToBF16(float value);

// Reads n little-endian elements of a floating-point `dtype` from `in` (any alignment) into `out`. F64 rounds to
// nearest even and becomes infinite beyond the range of a float; all others are exact. Throws Error kInvalidArgument
// when `dtype` is not floating-point.
void ToFloat32(DType dtype, const std::byte* in, std::int64_t n, float* out);

}  // namespace arrow_quant
