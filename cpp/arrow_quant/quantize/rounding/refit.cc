#include "arrow_quant/quantize/rounding/refit.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>

#include "arrow_quant/linalg/blas.h"
#include "arrow_quant/numeric/significant_bits.h"
#include "arrow_quant/quantize/affine_grid.h"

namespace arrow_quant {
namespace {

double Center(int bits) { return static_cast<double>((1 << bits) - 1) / 2; }

// The two values of `bits` significant bits on either side of x.
std::array<float, 2> Neighbours(double x, int bits) {
  const auto exact = static_cast<float>(x);
  const float outer = RoundUpToSignificantBits(exact, bits);
  if (exact == 0 || !std::isfinite(exact)) return {outer, outer};
  const float step = std::ldexp(1.0F, std::ilogb(exact) - bits + 1);
  return {outer, outer > 0 ? outer - step : outer + step};
}

double Change(const AffineNormal& n, double slope, double constant) {
  return n.a11 * slope * slope + 2 * n.a12 * slope * constant + n.a22 * constant * constant -
         2 * (n.b1 * slope + n.b2 * constant);
}

double Constant(AffineParams grid, int bits) {
  return static_cast<double>(grid.scale) * (Center(bits) - static_cast<double>(grid.zero_point));
}

bool IsUsable(AffineParams grid, int bits) {
  const float top = static_cast<float>((1 << bits) - 1);
  return grid.scale >= FLT_MIN && std::isfinite(grid.scale * (top - grid.zero_point)) &&
         std::isfinite(grid.scale * grid.zero_point);
}

struct BestAffine {
  AffineParams grid;
  double change = 0;
};

void Consider(const AffineNormal& normal, AffineParams old, AffineParams grid, int bits, BestAffine& best) {
  if (!IsUsable(grid, bits)) return;
  const double slope = static_cast<double>(grid.scale) - static_cast<double>(old.scale);
  const double change = Change(normal, slope, Constant(grid, bits) - Constant(old, bits));
  if (change < best.change) best = {grid, change};
}

double Change3(const Matrix3& a, const Vector3& b, const Vector3& p) {
  double change = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) change += p[i] * a[i][j] * p[j];
    change -= 2 * b[i] * p[i];
  }
  return change;
}

Vector3 Difference(const BinaryParams& x, const BinaryParams& y) {
  return {static_cast<double>(x.middle) - static_cast<double>(y.middle),
          static_cast<double>(x.scale) - static_cast<double>(y.scale),
          static_cast<double>(x.residual_scale) - static_cast<double>(y.residual_scale)};
}

// The view of H on one group.
MatrixView<const float> GroupHessian(const RoundingProblem& problem, std::int64_t group) {
  const std::int64_t begin = problem.GroupBegin(group);
  const std::int64_t count = problem.GroupCount(group);
  return MatrixView<const float>(problem.hessian.data(), problem.cols(), problem.cols())
      .Rows(begin, count)
      .Cols(begin, count);
}

void SetRowSums(MatrixView<const float> h, std::vector<float>& sums) {
  for (std::int64_t i = 0; i < h.rows; ++i) {
    double sum = 0;
    for (std::int64_t j = 0; j < h.cols; ++j) sum += static_cast<double>(h(i, j));
    sums[static_cast<std::size_t>(i)] = static_cast<float>(sum);
  }
}

// One group of a panel while its grids are refitted.
class Refit {
 public:
  Refit(Panel& panel, const RoundingProblem& problem, std::int64_t group, GroupScratch& scratch)
      : panel_(panel),
        problem_(problem),
        scratch_(scratch),
        group_(group),
        begin_(problem.GroupBegin(group)),
        count_(static_cast<std::size_t>(problem.GroupCount(group))),
        stride_(static_cast<std::size_t>(panel.stride)),
        block_(PanelBlock(panel, begin_, problem.GroupCount(group), (1 << problem.bits) - 1,
                          problem.group_of_column.data() + begin_)) {
    SetRowSums(GroupHessian(problem, group), scratch.row_sums);
    for (std::size_t k = 0; k < count_; ++k) total_ += static_cast<double>(scratch.row_sums[k]);
  }

  void Run() {
    if (problem_.grid == GridKind::kAffine) {
      RunAffine();
    } else {
      RunBinary();
    }
  }

 private:
  void RunAffine() {
    const auto center = static_cast<float>(Center(problem_.bits));
    Kernels().dequantize(block_.codes, count_ * stride_, {1.0F, center}, scratch_.basis[0].data());
    Multiply(0);
    Dot(scratch_.basis[0], scratch_.image[0].data(), 0);
    Dot(scratch_.image[0], nullptr, 1);
    Dot(scratch_.basis[0], scratch_.sum.data(), 2);
    Dot(scratch_.sum, nullptr, 3);
    bool changed = false;
    for (std::size_t r = 0; r < static_cast<std::size_t>(panel_.rows); ++r) changed = SolveAffine(r) || changed;
    if (!changed) return;
    Apply(1);
    Kernels().column_errors(block_);
  }

  void RunBinary() {
    constexpr std::array kFirst = {-1.0F, -1.0F, 1.0F, 1.0F};
    constexpr std::array kSecond = {-1.0F, 1.0F, -1.0F, 1.0F};
    Kernels().lookup4(block_.codes, count_ * stride_, kFirst.data(), scratch_.basis[0].data());
    Kernels().lookup4(block_.codes, count_ * stride_, kSecond.data(), scratch_.basis[1].data());
    Multiply(0);
    Multiply(1);
    Dot(scratch_.basis[0], scratch_.image[0].data(), 0);
    Dot(scratch_.basis[0], scratch_.image[1].data(), 1);
    Dot(scratch_.basis[1], scratch_.image[1].data(), 2);
    Dot(scratch_.image[0], nullptr, 3);
    Dot(scratch_.image[1], nullptr, 4);
    Dot(scratch_.basis[0], scratch_.sum.data(), 5);
    Dot(scratch_.basis[1], scratch_.sum.data(), 6);
    Dot(scratch_.sum, nullptr, 7);
    bool changed = false;
    for (std::size_t r = 0; r < static_cast<std::size_t>(panel_.rows); ++r) changed = SolveBinary(r) || changed;
    if (!changed) return;
    Apply(2);
    Kernels().column_errors_binary(block_);
  }

  void Multiply(std::size_t i) {
    const MatrixView<const float> h = GroupHessian(problem_, group_);
    Gemm<float>(Transpose::kNo, Transpose::kNo, 1, h, {scratch_.basis[i].data(), h.rows, panel_.stride}, 0,
                {scratch_.image[i].data(), h.rows, panel_.stride});
  }

  void Dot(const AlignedVector<float>& a, const float* b, std::size_t to) {
    Kernels().dot_columns(a.data(), b, count_, stride_, scratch_.dots[to].data());
  }

  double D(std::size_t i, std::size_t r) const { return scratch_.dots[i][r]; }

  bool SolveAffine(std::size_t r) {
    float& scale = panel_.Grid(panel_.scales, group_)[r];
    float& zero_point = panel_.Grid(panel_.zero_points, group_)[r];
    const AffineParams old{scale, zero_point};
    const AffineParams next = RefitAffine({D(0, r), D(1, r), total_, D(2, r), D(3, r)}, old, problem_.bits);
    scratch_.change[0][r] = static_cast<float>(static_cast<double>(next.scale) - static_cast<double>(old.scale));
    scratch_.change[2][r] = static_cast<float>(Constant(next, problem_.bits) - Constant(old, problem_.bits));
    scale = next.scale;
    zero_point = next.zero_point;
    return next.scale != old.scale || next.zero_point != old.zero_point;
  }

  bool SolveBinary(std::size_t r) {
    float& middle = panel_.Grid(panel_.zero_points, group_)[r];
    float& scale = panel_.Grid(panel_.scales, group_)[r];
    float& rest = panel_.Grid(panel_.residual_scales, group_)[r];
    const BinaryParams old{middle, scale, rest};
    const Matrix3 a = {{{total_, D(3, r), D(4, r)}, {D(3, r), D(0, r), D(1, r)}, {D(4, r), D(1, r), D(2, r)}}};
    const BinaryParams next = RefitBinary(a, {D(7, r), D(5, r), D(6, r)}, old);
    const Vector3 change = Difference(next, old);
    scratch_.change[0][r] = static_cast<float>(change[1]);
    scratch_.change[1][r] = static_cast<float>(change[2]);
    scratch_.change[2][r] = static_cast<float>(change[0]);
    middle = next.middle;
    scale = next.scale;
    rest = next.residual_scale;
    return change != Vector3{0, 0, 0};
  }

  // The sums after the change of `bases` slopes and of the constant.
  void Apply(std::size_t bases) {
    for (std::size_t i = 0; i < bases; ++i) {
      Kernels().subtract_columns(scratch_.image[i].data(), scratch_.change[i].data(), count_, stride_,
                                 scratch_.sum.data());
    }
    Kernels().subtract_outer(scratch_.row_sums.data(), scratch_.change[2].data(), count_, stride_, scratch_.sum.data());
  }

  Panel& panel_;
  const RoundingProblem& problem_;
  GroupScratch& scratch_;
  std::int64_t group_;
  std::int64_t begin_;
  std::size_t count_;
  std::size_t stride_;
  RoundingBlock block_;
  double total_ = 0;
};

}  // namespace

GroupScratch::GroupScratch(const Panel& panel, const RoundingProblem& problem)
    : sum(static_cast<std::size_t>(problem.group_size * panel.stride)),
      delta(sum.size()),
      row_sums(static_cast<std::size_t>(problem.group_size)) {
  const auto stride = static_cast<std::size_t>(panel.stride);
  basis[0].resize(sum.size());
  image[0].resize(sum.size());
  if (problem.grid == GridKind::kResidualBinary) {
    basis[1].resize(sum.size());
    image[1].resize(sum.size());
  }
  for (auto& values : change) values.assign(stride, 0.0F);
  for (auto& values : dots) values.assign(stride, 0.0);
}

void RefitGroup(Panel& panel, const RoundingProblem& problem, std::int64_t group, GroupScratch& scratch) {
  Refit(panel, problem, group, scratch).Run();
}

AffineParams RefitAffine(const AffineNormal& normal, AffineParams old, int bits) {
  BestAffine best{old};
  const double determinant = normal.a11 * normal.a22 - normal.a12 * normal.a12;
  double slope = 0;
  if (determinant > 1e-9 * normal.a11 * normal.a22) {
    slope = (normal.b1 * normal.a22 - normal.b2 * normal.a12) / determinant;
  }
  if (!(normal.a22 > 0)) return old;
  for (const float scale : Neighbours(static_cast<double>(old.scale) + slope, kScaleSignificantBits)) {
    // The best constant for that scale.
    const double moved = static_cast<double>(scale) - static_cast<double>(old.scale);
    const double constant = Constant(old, bits) + (normal.b2 - normal.a12 * moved) / normal.a22;
    const double zero_point = Center(bits) - constant / static_cast<double>(scale);
    const int kept = bits == 8 ? kZeroPointSignificantBitsInt8 : kZeroPointSignificantBits;
    for (const float stored : Neighbours(zero_point, kept)) Consider(normal, old, {scale, stored}, bits, best);
  }
  return best.grid;
}

BinaryParams RefitBinary(const Matrix3& a, const Vector3& b, const BinaryParams& old) {
  Vector3 x;
  if (!Solve3(a, b, x)) return old;
  BinaryParams best = old;
  double least = 0;
  for (const float scale : Neighbours(static_cast<double>(old.scale) + x[1], kScaleSignificantBits)) {
    for (const float rest : Neighbours(static_cast<double>(old.residual_scale) + x[2], kScaleSignificantBits)) {
      const Vector3 moved = Difference({old.middle, scale, rest}, old);
      const double middle =
          static_cast<double>(old.middle) + (b[0] - a[0][1] * moved[1] - a[0][2] * moved[2]) / a[0][0];
      for (const float stored : Neighbours(middle, kZeroPointSignificantBits)) {
        const BinaryParams next{stored, scale, rest};
        if (!IsOrdered(next)) continue;
        const double change = Change3(a, b, Difference(next, old));
        if (change < least) {
          best = next;
          least = change;
        }
      }
    }
  }
  return best;
}

}  // namespace arrow_quant
