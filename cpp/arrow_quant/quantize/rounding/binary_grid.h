#pragma once

#include <array>

namespace arrow_quant {

// Levels middle +- scale +- residual_scale.
struct BinaryParams {
  float middle;
  float scale;
  float residual_scale;
};

using Vector3 = std::array<double, 3>;
using Matrix3 = std::array<Vector3, 3>;

// The solution of the symmetric positive definite a x = b. False when a is singular to about 1e-9 of its diagonal.
bool Solve3(const Matrix3& a, const Vector3& b, Vector3& x);

// Whether greedy signs give the nearest level: scale >= residual_scale >= 0, all levels finite.
bool IsOrdered(const BinaryParams& grid);

// To stored precision. A grid of one level keeps its middle as it is.
BinaryParams StoredBinary(const Vector3& grid);

}  // namespace arrow_quant
