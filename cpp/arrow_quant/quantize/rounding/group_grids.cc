#include "arrow_quant/quantize/rounding/group_grids.h"

#include <algorithm>
#include <vector>

#include "arrow_quant/quantize/affine_grid.h"

namespace arrow_quant {
namespace {

// Rows that are copied out of the panel at a time: one cache line of a column.
constexpr std::int64_t kTile = 16;

AffineParams FitRow(const float* w, const float* importance, std::int64_t count, int bits) {
  const auto n = static_cast<std::size_t>(count);
  const MinMax range = Kernels().min_max(w, n);
  if (!range.finite) return {1.0F, 0.0F};  // compensated beyond the floats
  return FittedGrid(w, importance, n, range, bits);
}

void FitAffineGroup(Panel& panel, int bits, std::int64_t group, const float* columns, const float* importance,
                    std::int64_t count) {
  AlignedVector<float> tile(static_cast<std::size_t>(kTile * count));
  for (std::int64_t r0 = 0; r0 < panel.rows; r0 += kTile) {
    for (std::int64_t k = 0; k < count; ++k) {
      for (std::int64_t i = 0; i < kTile; ++i) {
        tile[static_cast<std::size_t>(i * count + k)] = columns[k * panel.stride + r0 + i];
      }
    }
    for (std::int64_t r = r0; r < std::min(panel.rows, r0 + kTile); ++r) {
      const AffineParams grid = FitRow(tile.data() + (r - r0) * count, importance, count, bits);
      panel.Grid(panel.scales, group)[r] = grid.scale;
      panel.Grid(panel.zero_points, group)[r] = grid.zero_point;
    }
  }
}

}  // namespace

void FitGroup(Panel& panel, const RoundingProblem& problem, std::int64_t group, const float* columns,
              const float* importance) {
  const std::int64_t count = problem.GroupCount(group);
  if (problem.grid == GridKind::kAffine) {
    FitAffineGroup(panel, problem.bits, group, columns, importance, count);
  } else {
    FitBinaryGroup(panel, group, columns, importance, count);
  }
}

void FitStaticGrids(Panel& panel, const RoundingProblem& problem) {
  for (std::int64_t group = 0; group < problem.groups; ++group) {
    const std::int64_t begin = problem.GroupBegin(group);
    FitGroup(panel, problem, group, panel.weight.data() + begin * panel.stride, problem.diagonal.data() + begin);
  }
}

}  // namespace arrow_quant
