#include "arrow_quant/quantize/rounding/rounding.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/quantize/base_quantizer.h"
#include "arrow_quant/quantize/rounding/column_scales.h"
#include "arrow_quant/quantize/rounding/coordinate_descent.h"
#include "arrow_quant/quantize/rounding/group_grids.h"
#include "arrow_quant/quantize/rounding/hessian_metric.h"
#include "arrow_quant/quantize/rounding/ldlq.h"
#include "arrow_quant/quantize/rounding/panel.h"

namespace arrow_quant {
namespace {

void CheckOptions(const RoundingOptions& options) {
  CheckBaseOptions({.bits = options.bits, .group_size = options.group_size});
  if (options.grid == GridKind::kResidualBinary && options.bits != 2) {
    throw Error(ErrorCode::kInvalidArgument, "a residual binary grid has 2 bits, not " + std::to_string(options.bits),
                {.remedy = "Use bit_width 2, or an affine grid."});
  }
  if (options.rounds < 0 || options.rounds > 100) {
    throw Error(ErrorCode::kInvalidArgument, "rounds is " + std::to_string(options.rounds),
                {.remedy = "Use 0 to 100; 2 are enough for most layers."});
  }
  if (!(options.dampening >= 0 && options.dampening <= 1)) {
    throw Error(ErrorCode::kInvalidArgument, "dampening is " + std::to_string(options.dampening),
                {.remedy = "Use 0 to 1, for example 0.01."});
  }
}

void CheckWeight(MatrixView<const float> weight) {
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    if (weight.cols == 0 || Kernels().min_max(weight.Row(r), static_cast<std::size_t>(weight.cols)).finite) continue;
    std::int64_t c = 0;
    while (std::isfinite(weight(r, c))) ++c;
    throw Error(ErrorCode::kQuantization, "NaN or Inf at flat index " + std::to_string(r * weight.cols + c),
                {.remedy = "Repair the weight, or keep the tensor with on_nonfinite=keep."});
  }
}

std::vector<std::int32_t> ByFallingDiagonal(const HessianMetric& metric, std::int64_t begin, std::int64_t count) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), static_cast<std::int32_t>(begin));
  std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return metric.Diagonal(a) > metric.Diagonal(b) || (metric.Diagonal(a) == metric.Diagonal(b) && a < b);
  });
  return order;
}

void SetColumns(const HessianMetric& metric, RoundingProblem& problem) {
  for (std::int64_t group = 0; group < problem.groups; ++group) {
    const auto order = ByFallingDiagonal(metric, problem.GroupBegin(group), problem.GroupCount(group));
    problem.columns.insert(problem.columns.end(), order.begin(), order.end());
    problem.group_of_column.insert(problem.group_of_column.end(), order.size(), static_cast<std::int32_t>(group));
  }
}

// The order of rounding in terms of panel columns; returns it in terms of the matrix's.
std::vector<std::int32_t> SetVisits(const HessianMetric& metric, ColumnOrder order, RoundingProblem& problem) {
  const auto n = static_cast<std::size_t>(problem.cols());
  std::vector<std::int32_t> visited(n);
  std::iota(visited.begin(), visited.end(), 0);
  if (order == ColumnOrder::kActivation) visited = ByFallingDiagonal(metric, 0, problem.cols());
  std::vector<std::int32_t> place(n);
  for (std::size_t k = 0; k < n; ++k)
    place[static_cast<std::size_t>(problem.columns[k])] = static_cast<std::int32_t>(k);
  for (const std::int32_t column : visited) {
    problem.visits.push_back(place[static_cast<std::size_t>(column)]);
    problem.group_of_visit.push_back(static_cast<std::int32_t>(column / problem.group_size));
  }
  return visited;
}

void SetMetric(const HessianMetric& metric, const RoundingOptions& options, RoundingProblem& problem) {
  for (const std::int32_t column : problem.columns) {
    problem.diagonal.push_back(metric.Diagonal(column) + static_cast<float>(problem.factor.added));
    problem.inverse_diagonal.push_back(1 / problem.diagonal.back());
  }
  problem.ones.assign(problem.columns.size(), 1.0F);
  const bool refines = options.rounds > 0 && !problem.factor.diagonal;  // alone, a diagonal leaves nothing to refine
  problem.rounds = refines ? options.rounds : 0;
  if (!refines) return;
  problem.hessian.resize(problem.columns.size() * problem.columns.size());
  metric.Gather(std::span<const std::int32_t>(problem.columns), problem.factor.added, false,
                MatrixView<float>(problem.hessian.data(), problem.cols(), problem.cols()), options.num_threads);
}

// All but the factor and what follows from it.
RoundingProblem StartProblem(MatrixView<const float> weight, const HessianMetric& metric,
                             const RoundingOptions& options) {
  RoundingProblem problem;
  problem.weight = weight;
  problem.bits = options.bits;
  problem.group_size = options.group_size == -1 ? weight.cols : std::min(options.group_size, weight.cols);
  problem.groups = (weight.cols + problem.group_size - 1) / problem.group_size;
  problem.grid = options.grid;
  SetColumns(metric, problem);
  return problem;
}

RoundingProblem CorrelatedProblem(MatrixView<const float> weight, const float* hessian, const RoundingOptions& options,
                                  const std::stop_token& stop) {
  HessianMetric metric(hessian, weight.cols, options.num_threads);
  std::vector<float> column_scales = options.scales;
  if (column_scales.empty() && options.column_scales) column_scales = ColumnScales(weight, metric);
  if (!column_scales.empty()) metric.ScaleColumns(column_scales);
  RoundingProblem problem = StartProblem(weight, metric, options);
  problem.column_scales = std::move(column_scales);
  problem.compensated_grids = options.order == ColumnOrder::kNatural;
  const std::vector<std::int32_t> visited = SetVisits(metric, options.order, problem);
  problem.factor = FactorDamped(metric, visited, options.dampening, options.num_threads, stop);
  SetMetric(metric, options, problem);
  return problem;
}

RoundingProblem UncorrelatedProblem(MatrixView<const float> weight, std::span<const float> importance,
                                    const RoundingOptions& options) {
  const HessianMetric metric(importance);
  RoundingProblem problem = StartProblem(weight, metric, options);
  const std::vector<std::int32_t> visited = SetVisits(metric, ColumnOrder::kNatural, problem);
  problem.factor = DiagonalFactor(metric, visited, 0);
  SetMetric(metric, options, problem);
  return problem;
}

void RoundPanel(const RoundingProblem& problem, std::int64_t row_begin, std::int64_t rows, QuantizedMatrix& out) {
  Panel panel(problem, row_begin, rows);
  if (!problem.compensated_grids) FitStaticGrids(panel, problem);
  RoundLdlq(panel, problem);
  for (int round = 0; round < problem.rounds; ++round) RefinePanel(panel, problem);
  StorePanel(panel, problem, out);
}

QuantizedMatrix Allocate(MatrixView<const float> weight, const RoundingOptions& options) {
  CheckOptions(options);
  CheckWeight(weight);
  QuantizedMatrix out =
      AllocateQuantized(weight.rows, weight.cols, {.bits = options.bits, .group_size = options.group_size});
  out.grid = options.grid;
  if (options.grid == GridKind::kResidualBinary) out.residual_scales.resize(out.scales.size());
  return out;
}

void RoundPanels(const RoundingProblem& problem, int threads, const std::stop_token& stop, QuantizedMatrix& out) {
  const std::int64_t step = PanelRows(out.rows);
  ThreadPool::Shared().ParallelFor(
      (out.rows + step - 1) / step, threads,
      [&](std::int64_t i) { RoundPanel(problem, i * step, std::min(step, out.rows - i * step), out); }, stop);
}

}  // namespace

RoundingResult RoundWithHessian(MatrixView<const float> weight, const float* hessian, const RoundingOptions& options,
                                const std::stop_token& stop) {
  RoundingResult result;
  result.matrix = Allocate(weight, options);
  if (weight.size() == 0) return result;
  RoundingProblem problem = CorrelatedProblem(weight, hessian, options, stop);
  RoundPanels(problem, options.num_threads, stop, result.matrix);
  result.matrix.column_scales = std::move(problem.column_scales);
  result.dampening = problem.factor.dampening;
  result.diagonal = problem.factor.diagonal;
  result.float64 = problem.factor.float64;
  return result;
}

QuantizedMatrix RoundNearest(MatrixView<const float> weight, const float* importance, const RoundingOptions& options,
                             const std::stop_token& stop) {
  QuantizedMatrix out = Allocate(weight, options);
  if (weight.size() == 0) return out;
  const std::vector<float> ones(importance == nullptr ? static_cast<std::size_t>(weight.cols) : 0, 1.0F);
  const float* values = importance == nullptr ? ones.data() : importance;
  if (!Kernels().min_max(values, static_cast<std::size_t>(weight.cols)).finite) {
    throw Error(ErrorCode::kQuantization, "the importance of the columns has NaN or Inf",
                {.remedy = "Leave samples with NaN or Inf activations out."});
  }
  const RoundingProblem problem =
      UncorrelatedProblem(weight, std::span(values, static_cast<std::size_t>(weight.cols)), options);
  RoundPanels(problem, options.num_threads, stop, out);
  return out;
}

}  // namespace arrow_quant
