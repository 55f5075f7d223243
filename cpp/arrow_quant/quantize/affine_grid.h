#pragma once

#include <cstddef>

#include "arrow_quant/kernels/kernels.h"

namespace arrow_quant {

// Significant bits that a stored scale keeps. Fewer distinct bytes let ZSTD store a scale in about 6 bits.
inline constexpr int kScaleSignificantBits = 8;
// Significant bits that a stored zero point keeps, where its error stays below a quarter of a step.
inline constexpr int kZeroPointSignificantBits = 8;
inline constexpr int kZeroPointSignificantBitsInt8 = 11;

// How the grid of a group is found.
enum class GridFit {
  kMinMax,  // the group's range, with a real zero point
  kFitted,  // least squares for scale and zero point, codes and grid in turn
};

// The grid that spans [range.low, range.high] with 2^bits levels and a real zero point, rounded to stored precision so
// that no value of the range is further than half a step from a level. A constant group gets scale 1 and is reproduced
// exactly. Scales are normal floats and every level is finite. `range.finite` must be true.
AffineParams MinMaxGrid(const MinMax& range, int bits);

// The least-squares grid of w[0..n), or the min-max grid where that is no worse. `weight` may be null (all ones).
AffineParams FittedGrid(const float* w, const float* weight, std::size_t n, const MinMax& range, int bits);

}  // namespace arrow_quant
