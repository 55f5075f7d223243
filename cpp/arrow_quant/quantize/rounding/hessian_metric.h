#pragma once

#include <cstdint>
#include <span>
#include <stop_token>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/matrix_view.h"

namespace arrow_quant {

// The second moment scaled to a mean diagonal of 1 over the active columns, so that sums stay in range whatever the
// scale of the activations. An inactive column (diagonal not positive) has diagonal 1 and no other entries.
class HessianMetric {
 public:
  // `hessian` [n, n] outlives this. Throws Error kQuantization naming the place of a NaN or Inf.
  HessianMetric(const float* hessian, std::int64_t n, int num_threads);
  // For a weight whose columns have been divided by `column_scales` [n]: diag(c) H diag(c). To be called once.
  void ScaleColumns(std::span<const float> column_scales);
  // The diagonal alone; Gather is not to be called.
  explicit HessianMetric(std::span<const float> diagonal);

  std::int64_t size() const { return n_; }
  // Before dampening.
  float Diagonal(std::int64_t i) const { return diagonal_[static_cast<std::size_t>(i)]; }
  // The mean of Diagonal(), which dampening is a fraction of.
  double mean_diagonal() const { return mean_diagonal_; }

  // out(i, j) = H(order[i], order[j]), plus `added` on the diagonal; for i >= j only when `lower`.
  template <typename T>
  void Gather(std::span<const std::int32_t> order, double added, bool lower, MatrixView<T> out, int num_threads) const;

 private:
  void SetDiagonal(const float* diagonal, std::int64_t step);

  const float* hessian_ = nullptr;
  std::int64_t n_;
  double scale_ = 1;
  double mean_diagonal_ = 1;
  std::vector<float> diagonal_;
  std::vector<bool> active_;
  std::vector<float> column_scales_;  // empty: ones
};

// H + added I = A diag(d) A^T in the order of `order`, with how it was reached.
struct HessianFactor {
  AlignedVector<float> transposed;  // [n, n]: A^T, unit lower triangular; empty when `diagonal`
  std::vector<float> pivots;        // d [n]
  double dampening = 0;
  double added = 0;  // dampening times the mean diagonal
  bool diagonal = false;
  bool float64 = false;

  MatrixView<const float> View() const {
    if (transposed.empty()) return {};
    const auto n = static_cast<std::int64_t>(pivots.size());
    return {transposed.data(), n, n};
  }
};

// The diagonal of H + added I alone.
HessianFactor DiagonalFactor(const HessianMetric& metric, std::span<const std::int32_t> order, double dampening);

// Tries float32, then double where float32 fails or leaves too few digits, then ten times the dampening, up to 1;
// in the end the diagonal alone.
HessianFactor FactorDamped(const HessianMetric& metric, std::span<const std::int32_t> order, double dampening,
                           int num_threads, const std::stop_token& stop);

}  // namespace arrow_quant
