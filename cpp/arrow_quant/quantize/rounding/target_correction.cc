#include "arrow_quant/quantize/rounding/target_correction.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/linalg/blas.h"
#include "arrow_quant/linalg/cholesky.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kRows = 64;

AlignedVector<double> Damped(const float* hessian, std::int64_t n, double dampening) {
  AlignedVector<double> damped(hessian, hessian + n * n);
  double trace = 0;
  for (std::int64_t i = 0; i < n; ++i) trace += damped[static_cast<std::size_t>(i * n + i)];
  const double added = dampening * trace / static_cast<double>(n);
  for (std::int64_t i = 0; i < n; ++i) {
    double& diagonal = damped[static_cast<std::size_t>(i * n + i)];
    // A channel without activations takes no part.
    diagonal = diagonal > 0 ? diagonal + added : 1;
  }
  return damped;
}

// Rows of the result: W + (W D) L^-T L^-1.
void CorrectRows(MatrixView<const float> weight, MatrixView<const double> drift, MatrixView<const double> factor,
                 float* out) {
  const auto size = static_cast<std::size_t>(weight.size());
  const AlignedVector<double> rows(weight.data, weight.data + size);
  AlignedVector<double> change(size);
  const MatrixView<double> view(change.data(), weight.rows, weight.cols);
  Gemm<double>(Transpose::kNo, Transpose::kNo, 1, {rows.data(), weight.rows, weight.cols}, drift, 0, view);
  TrsmLower<double>(Side::kRight, Transpose::kYes, Diagonal::kGiven, factor, view);
  TrsmLower<double>(Side::kRight, Transpose::kNo, Diagonal::kGiven, factor, view);
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<float>(rows[i] + change[i]);
}

}  // namespace

AlignedVector<float> CorrectTarget(MatrixView<const float> weight, const float* hessian, const float* drift,
                                   double dampening, int num_threads) {
  const std::int64_t n = weight.cols;
  AlignedVector<double> factor = Damped(hessian, n, dampening);
  if (!Cholesky(MatrixView<double>(factor.data(), n, n), num_threads)) return {};
  const AlignedVector<double> cross(drift, drift + n * n);
  AlignedVector<float> target(static_cast<std::size_t>(weight.size()));
  ThreadPool::Shared().ParallelFor((weight.rows + kRows - 1) / kRows, num_threads, [&](std::int64_t i) {
    const std::int64_t begin = i * kRows;
    CorrectRows(weight.Rows(begin, std::min(kRows, weight.rows - begin)), {cross.data(), n, n}, {factor.data(), n, n},
                target.data() + begin * n);
  });
  if (!std::all_of(target.begin(), target.end(), [](float v) { return std::isfinite(v); })) return {};
  return target;
}

}  // namespace arrow_quant
