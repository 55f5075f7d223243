#pragma once

#include <span>

#include "arrow_quant/quantize/rounding/binary_grid.h"
#include "arrow_quant/quantize/rounding/panel.h"

namespace arrow_quant {

// Arrays for the work on one group of a panel, [count][stride] each unless said otherwise.
struct GroupScratch {
  GroupScratch(const Panel& panel, const RoundingProblem& problem);

  AlignedVector<float> sum;  // rows of H times the error
  AlignedVector<float> delta;
  AlignedVector<float> basis[2];   // what the grid's parameters multiply, besides 1
  AlignedVector<float> image[2];   // H times that
  std::vector<float> row_sums;     // [count]: H times 1
  AlignedVector<float> change[3];  // [stride]: of the parameters; the last is the constant's
  AlignedVector<double> dots[8];   // [stride]
};

// Replaces the grids of group `group` by those that minimize tr(E H E^T) for the codes as they are, in stored
// precision, row by row and only where that lowers it; `scratch.sum` holds (E H)^T of the group's columns and is kept
// up to date, as is the error.
void RefitGroup(Panel& panel, const RoundingProblem& problem, std::int64_t group, GroupScratch& scratch);

// A quadratic in the change p of a grid's parameters: p^T a p - 2 p^T b.
struct AffineNormal {
  double a11, a12, a22;  // slope, constant
  double b1, b2;
};

// The best grid in stored precision near the minimum of `normal`, or `old` where none is better. The slope multiplies
// (code - center), center = max_code / 2.
AffineParams RefitAffine(const AffineNormal& normal, AffineParams old, int bits);

// The same for levels middle +- scale +- residual_scale; `a` and `b` in that order of parameters.
BinaryParams RefitBinary(const Matrix3& a, const Vector3& b, const BinaryParams& old);

}  // namespace arrow_quant
