#include "arrow_quant/quantize/rounding/hessian_metric.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/kernels/kernels.h"
#include "arrow_quant/linalg/cholesky.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kRowsPerTask = 64;
// A pivot this much smaller than its diagonal entry has lost most of its digits in float32, whose errors reach about
// sqrt(n) 2^-24 of that entry.
constexpr float kLeastPivot = 1e-4F;

void ForRows(std::int64_t n, int threads, const std::function<void(std::int64_t)>& body) {
  ThreadPool::Shared().ParallelFor((n + kRowsPerTask - 1) / kRowsPerTask, threads, [&](std::int64_t task) {
    const std::int64_t end = std::min(n, (task + 1) * kRowsPerTask);
    for (std::int64_t i = task * kRowsPerTask; i < end; ++i) body(i);
  });
}

void CheckFinite(const float* hessian, std::int64_t n, int threads) {
  std::atomic<std::int64_t> bad_row{std::numeric_limits<std::int64_t>::max()};
  ForRows(n, threads, [&](std::int64_t i) {
    if (Kernels().min_max(hessian + i * n, static_cast<std::size_t>(n)).finite) return;
    for (std::int64_t seen = bad_row; i < seen && !bad_row.compare_exchange_weak(seen, i);) {
    }
  });
  const std::int64_t row = bad_row;
  if (row >= n) return;
  std::int64_t column = 0;
  while (std::isfinite(hessian[row * n + column])) ++column;
  throw Error(ErrorCode::kQuantization,
              "the second moment has NaN or Inf at row " + std::to_string(row) + ", column " + std::to_string(column),
              {.remedy = "Leave samples with NaN or Inf activations out, or calibrate in float32."});
}

template <typename T>
bool TryFactor(const HessianMetric& metric, std::span<const std::int32_t> order, double added, MatrixView<T> transposed,
               std::span<T> pivots, int threads, const std::stop_token& stop) {
  const auto n = static_cast<std::int64_t>(order.size());
  const std::vector<std::int32_t> reversed_order(order.rbegin(), order.rend());
  AlignedVector<T> reversed(static_cast<std::size_t>(n * n));
  const MatrixView<T> view(reversed.data(), n, n);
  metric.Gather(std::span<const std::int32_t>(reversed_order), added, true, view, threads);
  return FactorUnitUpper(view, transposed, pivots, threads, stop);
}

bool PivotsHaveDigits(const HessianMetric& metric, std::span<const std::int32_t> order, double added,
                      std::span<const float> pivots) {
  for (std::size_t k = 0; k < order.size(); ++k) {
    const float entry = metric.Diagonal(order[k]) + static_cast<float>(added);
    if (!(pivots[k] > kLeastPivot * entry)) return false;
  }
  return true;
}

bool TryDouble(const HessianMetric& metric, std::span<const std::int32_t> order, double added, HessianFactor& factor,
               int threads, const std::stop_token& stop) {
  const auto n = static_cast<std::int64_t>(order.size());
  AlignedVector<double> transposed(static_cast<std::size_t>(n * n));
  std::vector<double> pivots(order.size());
  const MatrixView<double> view(transposed.data(), n, n);
  if (!TryFactor(metric, order, added, view, std::span(pivots), threads, stop)) return false;
  std::transform(transposed.begin(), transposed.end(), factor.transposed.begin(),
                 [](double v) { return static_cast<float>(v); });
  std::transform(pivots.begin(), pivots.end(), factor.pivots.begin(), [](double v) { return static_cast<float>(v); });
  return std::all_of(factor.pivots.begin(), factor.pivots.end(), [](float v) { return v > 0 && std::isfinite(v); });
}

bool TryDampening(const HessianMetric& metric, std::span<const std::int32_t> order, HessianFactor& factor, int threads,
                  const std::stop_token& stop) {
  const auto n = static_cast<std::int64_t>(order.size());
  const MatrixView<float> view(factor.transposed.data(), n, n);
  factor.float64 = false;
  if (TryFactor(metric, order, factor.added, view, std::span(factor.pivots), threads, stop) &&
      PivotsHaveDigits(metric, order, factor.added, factor.pivots)) {
    return true;
  }
  factor.float64 = true;
  return TryDouble(metric, order, factor.added, factor, threads, stop);
}

}  // namespace

HessianMetric::HessianMetric(const float* hessian, std::int64_t n, int num_threads)
    : hessian_(hessian), n_(n), diagonal_(static_cast<std::size_t>(n)), active_(static_cast<std::size_t>(n)) {
  CheckFinite(hessian, n, num_threads);
  SetDiagonal(hessian, n + 1);
}

HessianMetric::HessianMetric(std::span<const float> diagonal)
    : n_(static_cast<std::int64_t>(diagonal.size())), diagonal_(diagonal.size()), active_(diagonal.size()) {
  SetDiagonal(diagonal.data(), 1);
}

void HessianMetric::SetDiagonal(const float* diagonal, std::int64_t step) {
  double sum = 0;
  std::int64_t active = 0;
  for (std::int64_t i = 0; i < n_; ++i) {
    const float entry = diagonal[i * step];
    active_[static_cast<std::size_t>(i)] = entry > 0;
    if (entry > 0) {
      sum += static_cast<double>(entry);
      ++active;
    }
  }
  if (active > 0) scale_ = static_cast<double>(active) / sum;
  double total = 0;
  for (std::int64_t i = 0; i < n_; ++i) {
    const auto at = static_cast<std::size_t>(i);
    diagonal_[at] = active_[at] ? static_cast<float>(static_cast<double>(diagonal[i * step]) * scale_) : 1.0F;
    total += static_cast<double>(diagonal_[at]);
  }
  if (n_ > 0) mean_diagonal_ = total / static_cast<double>(n_);
}

void HessianMetric::ScaleColumns(std::span<const float> column_scales) {
  column_scales_.assign(column_scales.begin(), column_scales.end());
  double total = 0;
  for (std::size_t i = 0; i < column_scales_.size(); ++i) {
    diagonal_[i] *= column_scales_[i] * column_scales_[i];
    total += static_cast<double>(diagonal_[i]);
  }
  mean_diagonal_ = total / static_cast<double>(n_);
}

template <typename T>
void HessianMetric::Gather(std::span<const std::int32_t> order, double added, bool lower, MatrixView<T> out,
                           int num_threads) const {
  const auto scale = static_cast<T>(scale_);
  ForRows(n_, num_threads, [&](std::int64_t i) {
    const auto from = static_cast<std::size_t>(order[static_cast<std::size_t>(i)]);
    const float* row = hessian_ + static_cast<std::int64_t>(from) * n_;
    T* to = out.Row(i);
    const std::int64_t end = lower ? i + 1 : n_;
    for (std::int64_t j = 0; j < end; ++j) {
      const auto column = static_cast<std::size_t>(order[static_cast<std::size_t>(j)]);
      to[j] = active_[from] && active_[column] ? static_cast<T>(row[column]) * scale : T{0};
    }
    if (!column_scales_.empty()) {
      const auto row_scale = static_cast<T>(column_scales_[from]);
      for (std::int64_t j = 0; j < end; ++j) {
        to[j] *=
            row_scale * static_cast<T>(column_scales_[static_cast<std::size_t>(order[static_cast<std::size_t>(j)])]);
      }
    }
    to[i] = static_cast<T>(static_cast<double>(diagonal_[from]) + added);
  });
}

template void HessianMetric::Gather(std::span<const std::int32_t>, double, bool, MatrixView<float>, int) const;
template void HessianMetric::Gather(std::span<const std::int32_t>, double, bool, MatrixView<double>, int) const;

HessianFactor DiagonalFactor(const HessianMetric& metric, std::span<const std::int32_t> order, double dampening) {
  HessianFactor factor;
  factor.diagonal = true;
  factor.dampening = dampening;
  factor.added = dampening * metric.mean_diagonal();
  for (const std::int32_t column : order) {
    factor.pivots.push_back(metric.Diagonal(column) + static_cast<float>(factor.added));
  }
  return factor;
}

HessianFactor FactorDamped(const HessianMetric& metric, std::span<const std::int32_t> order, double dampening,
                           int num_threads, const std::stop_token& stop) {
  const std::size_t n = order.size();
  HessianFactor factor;
  factor.transposed.resize(n * n);
  factor.pivots.resize(n);
  for (factor.dampening = dampening;;) {
    factor.added = factor.dampening * metric.mean_diagonal();
    if (TryDampening(metric, order, factor, num_threads, stop)) return factor;
    if (factor.dampening >= 1) break;
    factor.dampening = std::min(1.0, std::max(factor.dampening * 10, 1e-6));
  }
  return DiagonalFactor(metric, order, factor.dampening);
}

}  // namespace arrow_quant
