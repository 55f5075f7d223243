#pragma once

#include <cstdint>
#include <vector>

#include "arrow_quant/base/matrix_view.h"

namespace arrow_quant {

// Columns that are mixed with each other.
inline constexpr std::int64_t kRotationBlock = 64;

// Turns every row x [cols] into R x, R orthogonal: signs that the seed draws for each column, then a Walsh-Hadamard
// transform over sqrt(n) of every block of n = 64 columns, a tail being cut into blocks of falling powers of two. It
// spreads a large channel over its block (Tseng et al. 2024, QuIP#, section 3; Ashkboos et al. 2024, QuaRot).
//
// Exact to the bit, for other readers of the format: the sign of column c is minus where the last bit of
// splitmix64(seed + (c + 1) * 0x9E3779B97F4A7C15) is set; butterflies (a + b, a - b) go from distance 1 to n / 2 in
// float32 and the factor, float32 of 1 / sqrt(n), comes last.
void RotateRows(MatrixView<float> rows, std::uint64_t seed);

// The inverse: the same butterflies and factor, then the signs.
void UnrotateRows(MatrixView<float> rows, std::uint64_t seed);

// The signs of the columns, 1 or -1.
std::vector<float> RotationSigns(std::int64_t cols, std::uint64_t seed);

}  // namespace arrow_quant
