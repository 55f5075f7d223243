#include "arrow_quant/quantize/rounding/left_to_right.h"

#include <algorithm>
#include <cmath>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/linalg/blas.h"
#include "arrow_quant/linalg/cholesky.h"
#include "arrow_quant/quantize/base_quantizer.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kRows = 64;

// A^T of the dampened hessian.
std::vector<double> Factor(const double* hessian, std::int64_t n, const LeftToRightOptions& options,
                           const std::stop_token& stop) {
  std::vector<double> diagonal(static_cast<std::size_t>(n));
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double entry = hessian[i * n + i];
    diagonal[static_cast<std::size_t>(i)] = entry > 0 ? entry : 1;
    sum += diagonal[static_cast<std::size_t>(i)];
  }
  std::vector<double> reversed(static_cast<std::size_t>(n * n));
  const MatrixView<double> view(reversed.data(), n, n);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < i; ++j) view(i, j) = hessian[(n - 1 - i) * n + (n - 1 - j)];
    view(i, i) = diagonal[static_cast<std::size_t>(n - 1 - i)] + options.dampening * sum / static_cast<double>(n);
  }
  std::vector<double> transposed(reversed.size());
  if (!FactorUnitUpper(view, MatrixView<double>(transposed.data(), n, n), std::span(diagonal), options.num_threads,
                       stop)) {
    throw Error(ErrorCode::kQuantization, "the dampened second moment is not positive definite",
                {.remedy = "Use a larger dampening."});
  }
  return transposed;
}

struct IntegerZeroGrid {
  double scale;
  double offset;

  double Nearest(double value, double top) const {
    return std::clamp(std::nearbyint((value - offset) / scale), 0.0, top) * scale + offset;
  }
};

IntegerZeroGrid MinMaxOf(const double* w, std::int64_t n, double top) {
  const double low = std::min(0.0, *std::min_element(w, w + n));
  const double high = std::max(0.0, *std::max_element(w, w + n));
  const double scale = std::max((high - low) / top, 1e-12);
  return {scale, -std::nearbyint(-low / scale) * scale};
}

// The rows of one group: E_k = W_k - nearest(W_k + feedback_k + sum over earlier j of E_j A_jk).
void RoundGroup(MatrixView<const double> w, MatrixView<const double> feedback, MatrixView<const double> compensated,
                MatrixView<const double> transposed, double top, MatrixView<double> error) {
  for (std::int64_t r = 0; r < w.rows; ++r) {
    const IntegerZeroGrid grid = MinMaxOf(compensated.Row(r), compensated.cols, top);
    for (std::int64_t k = 0; k < w.cols; ++k) {
      double target = w(r, k) + feedback(r, k);
      for (std::int64_t j = 0; j < k; ++j) target += error(r, j) * transposed(k, j);
      error(r, k) = w(r, k) - grid.Nearest(target, top);
    }
  }
}

void RoundRows(MatrixView<const double> w, MatrixView<const double> transposed, std::int64_t group_size, double top,
               MatrixView<double> error) {
  std::vector<double> feedback(static_cast<std::size_t>(w.rows * group_size));
  std::vector<double> compensated(feedback.size());
  for (std::int64_t begin = 0; begin < w.cols; begin += group_size) {
    const std::int64_t count = std::min(group_size, w.cols - begin);
    const MatrixView<double> sum(feedback.data(), w.rows, count);
    const MatrixView<double> full(compensated.data(), w.rows, count);
    const MatrixView<const double> rows = transposed.Rows(begin, count);
    const MatrixView<const double> weights = w.Cols(begin, count);
    Gemm<double>(Transpose::kNo, Transpose::kYes, 1, error.Cols(0, begin), rows.Cols(0, begin), 0, sum);
    std::copy_n(sum.data, sum.size(), full.data);
    TrsmLower<double>(Side::kRight, Transpose::kYes, Diagonal::kUnit, rows.Cols(begin, count), full);
    for (std::int64_t r = 0; r < w.rows; ++r) {
      for (std::int64_t k = 0; k < count; ++k) full(r, k) += weights(r, k);
    }
    RoundGroup(weights, sum, full, rows.Cols(begin, count), top, error.Cols(begin, count));
  }
}

}  // namespace

std::vector<double> RoundLeftToRight(MatrixView<const double> weight, const double* hessian,
                                     const LeftToRightOptions& options, const std::stop_token& stop) {
  CheckBaseOptions({.bits = options.bits, .group_size = options.group_size});
  std::vector<double> values(static_cast<std::size_t>(weight.size()));
  if (values.empty()) return values;
  const std::vector<double> factor = Factor(hessian, weight.cols, options, stop);
  const MatrixView<const double> transposed(factor.data(), weight.cols, weight.cols);
  const MatrixView<double> error(values.data(), weight.rows, weight.cols);
  const std::int64_t group = options.group_size == -1 ? weight.cols : std::min(options.group_size, weight.cols);
  ThreadPool::Shared().ParallelFor((weight.rows + kRows - 1) / kRows, options.num_threads,
                                   [&](std::int64_t i) {
                                     const std::int64_t begin = i * kRows;
                                     const std::int64_t count = std::min(kRows, weight.rows - begin);
                                     RoundRows(weight.Rows(begin, count), transposed, group, (1 << options.bits) - 1,
                                               error.Rows(begin, count));
                                   },
                                   stop);
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    for (std::int64_t c = 0; c < weight.cols; ++c) error(r, c) = weight(r, c) - error(r, c);
  }
  return values;
}

}  // namespace arrow_quant
