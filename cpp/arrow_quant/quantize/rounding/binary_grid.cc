#include "arrow_quant/quantize/rounding/binary_grid.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "arrow_quant/numeric/significant_bits.h"
#include "arrow_quant/quantize/affine_grid.h"
#include "arrow_quant/quantize/rounding/group_grids.h"

namespace arrow_quant {
namespace {

constexpr int kSteps = 8;
// Evenly spaced levels over this much of the range; where few columns matter most, the greedy start alone is poor.
constexpr std::array kShrinks = {1.0F, 0.85F, 0.7F, 0.55F, 0.4F};

// Grids of all rows while they are fitted: middle, scale, residual_scale [3][stride], and the sums of a step.
class BinaryFit {
 public:
  BinaryFit(const float* columns, const float* importance, std::int64_t count, std::int64_t stride)
      : columns_(columns),
        importance_(importance),
        count_(static_cast<std::size_t>(count)),
        stride_(static_cast<std::size_t>(stride)),
        grid_(3 * stride_, 0.0F),
        best_(grid_),
        moments_(5 * stride_),
        total_(stride_, 0.0),
        best_gain_(stride_, -std::numeric_limits<double>::infinity()),
        low_(columns, columns + stride),
        high_(low_) {
    SetTotals();
  }

  void Run() {
    SetGreedyStart();
    Descend();
    for (const float shrink : kShrinks) {
      SetEvenStart(shrink);
      Descend();
    }
  }

  // In stored precision; a constant group exactly.
  BinaryParams Best(std::size_t r) const {
    if (low_[r] == high_[r]) return {low_[r], 0.0F, 0.0F};
    return StoredBinary({static_cast<double>(best_[r]), static_cast<double>(best_[stride_ + r]),
                         static_cast<double>(best_[2 * stride_ + r])});
  }

 private:
  double Moment(std::size_t i, std::size_t r) const { return static_cast<double>(moments_[i * stride_ + r]); }

  void SetTotals() {
    for (std::size_t k = 0; k < count_; ++k) {
      const auto g = static_cast<double>(importance_[k]);
      mass_ += g;
      for (std::size_t r = 0; r < stride_; ++r) {
        const float w = columns_[k * stride_ + r];
        total_[r] += g * static_cast<double>(w);
        low_[r] = std::min(low_[r], w);
        high_[r] = std::max(high_[r], w);
      }
    }
  }

  void SetGrid(std::size_t r, const BinaryParams& grid) {
    grid_[r] = grid.middle;
    grid_[stride_ + r] = grid.scale;
    grid_[2 * stride_ + r] = grid.residual_scale;
  }

  void Measure() { Kernels().binary_moments(columns_, importance_, count_, stride_, grid_.data(), moments_.data()); }

  // The mean, the mean distance from it, and that of the rest.
  void SetGreedyStart() {
    for (std::size_t r = 0; r < stride_; ++r) grid_[r] = static_cast<float>(total_[r] / mass_);
    Measure();
    for (std::size_t r = 0; r < stride_; ++r) {
      const double scale = (Moment(3, r) - static_cast<double>(grid_[r]) * Moment(0, r)) / mass_;
      grid_[stride_ + r] = std::max(0.0F, static_cast<float>(scale));
    }
    Measure();
    for (std::size_t r = 0; r < stride_; ++r) {
      const double rest = (Moment(4, r) - static_cast<double>(grid_[r]) * Moment(1, r) -
                           static_cast<double>(grid_[stride_ + r]) * Moment(2, r)) /
                          mass_;
      grid_[2 * stride_ + r] = std::clamp(static_cast<float>(rest), 0.0F, grid_[stride_ + r]);
    }
  }

  void SetEvenStart(float shrink) {
    for (std::size_t r = 0; r < stride_; ++r) {
      const float half = high_[r] / 2 - low_[r] / 2;
      SetGrid(r, {low_[r] / 2 + high_[r] / 2, half * shrink * (2.0F / 3), half * shrink / 3});
    }
  }

  void Descend() {
    for (int step = 0; step < kSteps; ++step) Step();
    Measure();
    for (std::size_t r = 0; r < stride_; ++r) {
      const double gain = Gain(r);
      if (!(gain > best_gain_[r])) continue;
      best_gain_[r] = gain;
      for (std::size_t i = 0; i < 3; ++i) best_[i * stride_ + r] = grid_[i * stride_ + r];
    }
  }

  Matrix3 Normal(std::size_t r) const {
    return {{{mass_, Moment(0, r), Moment(1, r)},
             {Moment(0, r), mass_, Moment(2, r)},
             {Moment(1, r), Moment(2, r), mass_}}};
  }

  Vector3 Right(std::size_t r) const { return {total_[r], Moment(3, r), Moment(4, r)}; }

  // How far the squared error of the grid is below that of zeros.
  double Gain(std::size_t r) const {
    const Vector3 x = {static_cast<double>(grid_[r]), static_cast<double>(grid_[stride_ + r]),
                       static_cast<double>(grid_[2 * stride_ + r])};
    const Matrix3 a = Normal(r);
    const Vector3 b = Right(r);
    double gain = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      gain += x[i] * (2 * b[i] - a[i][0] * x[0] - a[i][1] * x[1] - a[i][2] * x[2]);
    }
    return gain;
  }

  void Step() {
    Measure();
    for (std::size_t r = 0; r < stride_; ++r) {
      Vector3 x;
      if (!Solve3(Normal(r), Right(r), x)) continue;
      const BinaryParams next{static_cast<float>(x[0]), static_cast<float>(x[1]), static_cast<float>(x[2])};
      if (IsOrdered(next)) SetGrid(r, next);
    }
  }

  const float* columns_;
  const float* importance_;
  std::size_t count_;
  std::size_t stride_;
  AlignedVector<float> grid_;
  AlignedVector<float> best_;
  AlignedVector<float> moments_;
  std::vector<double> total_;
  std::vector<double> best_gain_;
  std::vector<float> low_;
  std::vector<float> high_;
  double mass_ = 0;
};

}  // namespace

bool Solve3(const Matrix3& a, const Vector3& b, Vector3& x) {
  // LDL^T by hand.
  const double l10 = a[1][0] / a[0][0];
  const double l20 = a[2][0] / a[0][0];
  const double d1 = a[1][1] - l10 * a[1][0];
  const double m21 = a[2][1] - l20 * a[1][0];
  const double l21 = m21 / d1;
  const double d2 = a[2][2] - l20 * a[2][0] - l21 * m21;
  if (!(a[0][0] > 0 && d1 > 1e-9 * a[1][1] && d2 > 1e-9 * a[2][2])) return false;
  const double y1 = b[1] - l10 * b[0];
  const double y2 = b[2] - l20 * b[0] - l21 * y1;
  x[2] = y2 / d2;
  x[1] = y1 / d1 - l21 * x[2];
  x[0] = b[0] / a[0][0] - l10 * x[1] - l20 * x[2];
  return true;
}

bool IsOrdered(const BinaryParams& grid) {
  const float reach = std::abs(grid.middle) + grid.scale + grid.residual_scale;
  return grid.residual_scale >= 0 && grid.scale >= grid.residual_scale && std::isfinite(reach);
}

BinaryParams StoredBinary(const Vector3& grid) {
  const auto middle = static_cast<float>(grid[0]);
  const float scale = RoundToSignificantBits(static_cast<float>(grid[1]), kScaleSignificantBits);
  const float rest = RoundToSignificantBits(static_cast<float>(grid[2]), kScaleSignificantBits);
  return {scale == 0 ? middle : RoundToSignificantBits(middle, kZeroPointSignificantBits), scale, rest};
}

void FitBinaryGroup(Panel& panel, std::int64_t group, const float* columns, const float* importance,
                    std::int64_t count) {
  BinaryFit fit(columns, importance, count, panel.stride);
  fit.Run();
  for (std::int64_t r = 0; r < panel.rows; ++r) {
    const BinaryParams grid = fit.Best(static_cast<std::size_t>(r));
    panel.Grid(panel.zero_points, group)[r] = grid.middle;
    panel.Grid(panel.scales, group)[r] = grid.scale;
    panel.Grid(panel.residual_scales, group)[r] = grid.residual_scale;
  }
}

}  // namespace arrow_quant
