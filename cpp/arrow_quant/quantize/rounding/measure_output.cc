#include "arrow_quant/quantize/rounding/measure_output.h"

#include <algorithm>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/kernels/kernels.h"
#include "arrow_quant/linalg/blas.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kRows = 128;

struct Energies {
  double ww = 0;
  double we = 0;
  double ee = 0;
};

// wq and qq follow from E = W - Q without cancellation where E is small.
OutputSums ToSums(const std::vector<Energies>& parts, double scale) {
  Energies total;
  for (const Energies& part : parts) {
    total.ww += part.ww;
    total.we += part.we;
    total.ee += part.ee;
  }
  const double wq = total.ww - total.we;
  return {total.ww * scale, wq * scale, (wq - total.we + total.ee) * scale, total.ee * scale};
}

AlignedVector<float> Errors(MatrixView<const float> w, MatrixView<const float> q) {
  AlignedVector<float> e(static_cast<std::size_t>(w.size()));
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (std::int64_t c = 0; c < w.cols; ++c) e[static_cast<std::size_t>(r * w.cols + c)] = w(r, c) - q(r, c);
  }
  return e;
}

template <typename Body>
std::vector<Energies> ForBlocks(std::int64_t n, int threads, const Body& body) {
  std::vector<Energies> parts(static_cast<std::size_t>((n + kRows - 1) / kRows));
  ThreadPool::Shared().ParallelFor(static_cast<std::int64_t>(parts.size()), threads, [&](std::int64_t i) {
    parts[static_cast<std::size_t>(i)] = body(i * kRows, std::min(kRows, n - i * kRows));
  });
  return parts;
}

Energies EnergiesInH(MatrixView<const float> w, MatrixView<const float> q, MatrixView<const float> h) {
  const AlignedVector<float> errors = Errors(w, q);
  const MatrixView<const float> e(errors.data(), w.rows, w.cols);
  AlignedVector<float> product(errors.size());
  const MatrixView<float> image(product.data(), w.rows, w.cols);
  Energies sums;
  const auto n = static_cast<std::size_t>(w.cols);
  Gemm<float>(Transpose::kNo, Transpose::kNo, 1, w, h, 0, image);
  for (std::int64_t r = 0; r < w.rows; ++r) {
    sums.ww += Kernels().dot(image.Row(r), w.Row(r), n);
    sums.we += Kernels().dot(image.Row(r), e.Row(r), n);
  }
  Gemm<float>(Transpose::kNo, Transpose::kNo, 1, e, h, 0, image);
  for (std::int64_t r = 0; r < w.rows; ++r) sums.ee += Kernels().dot(image.Row(r), e.Row(r), n);
  return sums;
}

Energies EnergiesOnRows(MatrixView<const float> w, MatrixView<const float> e, MatrixView<const float> x) {
  AlignedVector<float> outputs(static_cast<std::size_t>(x.rows * w.rows));
  AlignedVector<float> errors(outputs.size());
  Gemm<float>(Transpose::kNo, Transpose::kYes, 1, x, w, 0, {outputs.data(), x.rows, w.rows});
  Gemm<float>(Transpose::kNo, Transpose::kYes, 1, x, e, 0, {errors.data(), x.rows, w.rows});
  const std::size_t n = outputs.size();
  return {Kernels().dot(outputs.data(), outputs.data(), n), Kernels().dot(outputs.data(), errors.data(), n),
          Kernels().dot(errors.data(), errors.data(), n)};
}

// W x_f - Q x = W (x_f - x) + (W - Q) x would need three products; here the error is the difference of two outputs.
Energies EnergiesAgainst(MatrixView<const float> w, MatrixView<const float> q, MatrixView<const float> reference,
                         MatrixView<const float> x) {
  AlignedVector<float> outputs(static_cast<std::size_t>(x.rows * w.rows));
  AlignedVector<float> errors(outputs.size());
  Gemm<float>(Transpose::kNo, Transpose::kYes, 1, reference, w, 0, {outputs.data(), x.rows, w.rows});
  Gemm<float>(Transpose::kNo, Transpose::kYes, -1, x, q, 0, {errors.data(), x.rows, w.rows});
  for (std::size_t i = 0; i < errors.size(); ++i) errors[i] += outputs[i];
  const std::size_t n = outputs.size();
  return {Kernels().dot(outputs.data(), outputs.data(), n), Kernels().dot(outputs.data(), errors.data(), n),
          Kernels().dot(errors.data(), errors.data(), n)};
}

}  // namespace

OutputSums MeasureOutput(MatrixView<const float> weight, MatrixView<const float> quantized, const float* hessian,
                         int num_threads) {
  const MatrixView<const float> h(hessian, weight.cols, weight.cols);
  const auto parts = ForBlocks(weight.rows, num_threads, [&](std::int64_t begin, std::int64_t count) {
    return EnergiesInH(weight.Rows(begin, count), quantized.Rows(begin, count), h);
  });
  return ToSums(parts, 1);
}

OutputSums MeasureOutputOnRows(MatrixView<const float> weight, MatrixView<const float> quantized, const float* x,
                               std::int64_t n, int num_threads) {
  const AlignedVector<float> errors = Errors(weight, quantized);
  const MatrixView<const float> e(errors.data(), weight.rows, weight.cols);
  const MatrixView<const float> inputs(x, n, weight.cols);
  const auto parts = ForBlocks(n, num_threads, [&](std::int64_t begin, std::int64_t count) {
    return EnergiesOnRows(weight, e, inputs.Rows(begin, count));
  });
  return ToSums(parts, n > 0 ? 1 / static_cast<double>(n) : 0);
}

OutputSums MeasureOutputAgainst(MatrixView<const float> weight, MatrixView<const float> quantized,
                                const float* reference, const float* x, std::int64_t n, int num_threads) {
  const MatrixView<const float> float_rows(reference, n, weight.cols);
  const MatrixView<const float> rows(x, n, weight.cols);
  const auto parts = ForBlocks(n, num_threads, [&](std::int64_t begin, std::int64_t count) {
    return EnergiesAgainst(weight, quantized, float_rows.Rows(begin, count), rows.Rows(begin, count));
  });
  return ToSums(parts, n > 0 ? 1 / static_cast<double>(n) : 0);
}

}  // namespace arrow_quant
