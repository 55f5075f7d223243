#include "arrow_quant/quantize/rounding/panel.h"

#include <algorithm>
#include <array>

#include "arrow_quant/linalg/blas.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kTile = 16;
constexpr std::array<float, kRoundingColumns> kNoCoupling{};

std::int64_t RoundUp(std::int64_t n, std::int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

std::int64_t PanelRows(std::int64_t rows) { return rows >= 1024 ? 256 : rows >= 256 ? 128 : 64; }

Panel::Panel(const RoundingProblem& problem, std::int64_t begin, std::int64_t row_count)
    : row_begin(begin),
      rows(row_count),
      stride(RoundUp(row_count, static_cast<std::int64_t>(kRoundingRows))),
      weight(static_cast<std::size_t>(problem.cols() * stride), 0.0F),
      error(weight.size(), 0.0F),
      codes(weight.size()),
      scales(static_cast<std::size_t>(problem.groups * stride), 1.0F),
      zero_points(scales.size(), 0.0F),
      residual_scales(problem.grid == GridKind::kResidualBinary ? scales.size() : 0, 0.0F) {
  for (std::int64_t r0 = 0; r0 < rows; r0 += kTile) {
    for (std::int64_t k = 0; k < problem.cols(); ++k) {
      const std::int64_t column = problem.columns[static_cast<std::size_t>(k)];
      const float scale =
          problem.column_scales.empty() ? 1.0F : problem.column_scales[static_cast<std::size_t>(column)];
      for (std::int64_t r = r0; r < std::min(rows, r0 + kTile); ++r) {
        weight[static_cast<std::size_t>(k * stride + r)] = problem.weight(row_begin + r, column) / scale;
      }
    }
  }
}

RoundingBlock PanelBlock(Panel& panel, std::int64_t begin, std::int64_t count, int max_code,
                         const std::int32_t* group) {
  RoundingBlock block{};
  block.count = static_cast<std::size_t>(count);
  block.rows = static_cast<std::size_t>(panel.stride);
  block.max_code = max_code;
  block.weight = panel.weight.data() + begin * panel.stride;
  block.error = panel.error.data() + begin * panel.stride;
  block.codes = panel.codes.data() + begin * panel.stride;
  block.group = group;
  block.scales = panel.scales.data();
  block.zero_points = panel.zero_points.data();
  block.residual_scales = panel.residual_scales.data();
  return block;
}

void RoundRange(Panel& panel, const RoundingProblem& problem, const ColumnRange& range, float* delta) {
  const std::int64_t stride = panel.stride;
  RoundingBlock block = PanelBlock(panel, 0, 0, (1 << problem.bits) - 1, nullptr);
  const bool coupled = range.coupling.data != nullptr;
  const auto round = problem.grid == GridKind::kAffine ? Kernels().round_columns : Kernels().round_columns_binary;
  for (std::int64_t begin = 0; begin < range.count; begin += static_cast<std::int64_t>(kRoundingColumns)) {
    const std::int64_t count = std::min(static_cast<std::int64_t>(kRoundingColumns), range.count - begin);
    block.count = static_cast<std::size_t>(count);
    block.weight = range.weight + begin * stride;
    block.sum = range.sum + begin * stride;
    block.gain = range.gain + begin;
    block.coupling = coupled ? range.coupling.Row(begin) + begin : kNoCoupling.data();
    block.coupling_stride = coupled ? static_cast<std::size_t>(range.coupling.stride) : 0;
    block.group = range.group + begin;
    block.error = range.error + begin * stride;
    block.delta = delta + begin * stride;
    block.codes = range.codes + begin * stride;
    round(block);
    if (!coupled) continue;
    const std::int64_t later = begin + count;
    Gemm<float>(Transpose::kNo, Transpose::kNo, 1, range.coupling.Rows(later, range.count - later).Cols(begin, count),
                {block.delta, count, stride}, 1, {range.sum + later * stride, range.count - later, stride});
  }
}

void StorePanel(const Panel& panel, const RoundingProblem& problem, QuantizedMatrix& out) {
  const std::int64_t cols = problem.cols();
  AlignedVector<std::uint8_t> rows(static_cast<std::size_t>(panel.rows * cols));
  for (std::int64_t r0 = 0; r0 < panel.rows; r0 += kTile) {
    for (std::int64_t k = 0; k < cols; ++k) {
      const std::int64_t column = problem.columns[static_cast<std::size_t>(k)];
      for (std::int64_t r = r0; r < std::min(panel.rows, r0 + kTile); ++r) {
        rows[static_cast<std::size_t>(r * cols + column)] = panel.codes[static_cast<std::size_t>(k * panel.stride + r)];
      }
    }
  }
  Kernels().pack(rows.data(), rows.size(), out.bits, out.codes.data() + panel.row_begin * cols * out.bits / 8);
  for (std::int64_t r = 0; r < panel.rows; ++r) {
    for (std::int64_t g = 0; g < problem.groups; ++g) {
      const auto to = static_cast<std::size_t>((panel.row_begin + r) * problem.groups + g);
      const auto from = static_cast<std::size_t>(g * panel.stride + r);
      out.scales[to] = panel.scales[from];
      out.zero_points[to] = panel.zero_points[from];
      if (!out.residual_scales.empty()) out.residual_scales[to] = panel.residual_scales[from];
    }
  }
}

}  // namespace arrow_quant
