#include "arrow_quant/linalg/second_moment.h"

#include <algorithm>
#include <string>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/error.h"
#include "arrow_quant/base/matrix_view.h"
#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/kernels/to_float32.h"
#include "arrow_quant/linalg/blas.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kPanel = 512;
// Rows widened at a time, so that a long bfloat16 array needs little memory.
constexpr std::int64_t kRowBlock = 4096;

void CheckDtype(const ActivationRows& x) {
  if (x.dtype == DType::kF32 || x.dtype == DType::kBF16) return;
  throw Error(ErrorCode::kInvalidArgument, "activations are " + std::string(TorchName(x.dtype)),
              {.remedy = "Give float32 or bfloat16."});
}

const std::byte* RowBytes(const ActivationRows& x, std::int64_t row) {
  return static_cast<const std::byte*>(x.data) + row * x.cols * static_cast<std::int64_t>(ByteSize(x.dtype));
}

// Rows [begin, begin + count) as float32: a view of x itself, or of `buffer` after widening.
MatrixView<const float> FloatRows(const ActivationRows& x, std::int64_t begin, std::int64_t count,
                                  AlignedVector<float>& buffer, int threads) {
  if (x.dtype == DType::kF32) return {reinterpret_cast<const float*>(RowBytes(x, begin)), count, x.cols};
  buffer.resize(static_cast<std::size_t>(count * x.cols));
  constexpr std::int64_t kRowsPerTask = 256;
  ThreadPool::Shared().ParallelFor((count + kRowsPerTask - 1) / kRowsPerTask, threads, [&](std::int64_t task) {
    const std::int64_t row = task * kRowsPerTask;
    const std::int64_t rows = std::min(kRowsPerTask, count - row);
    FastToFloat32(x.dtype, RowBytes(x, begin + row), rows * x.cols, buffer.data() + row * x.cols);
  });
  return {buffer.data(), count, x.cols};
}

std::int64_t Panels(std::int64_t cols) { return (cols + kPanel - 1) / kPanel; }

// Panel p of the upper triangle: the diagonal block, and what is above it.
void AddPanel(MatrixView<const float> x, std::int64_t p, MatrixView<float> h) {
  const std::int64_t begin = p * kPanel;
  const std::int64_t count = std::min(kPanel, x.cols - begin);
  const MatrixView<const float> panel = x.Cols(begin, count);
  Gemm<float>(Transpose::kYes, Transpose::kNo, 1, x.Cols(0, begin), panel, 1, h.Rows(0, begin).Cols(begin, count));
  SyrkUpper<float>(1, panel, 1, h.Rows(begin, count).Cols(begin, count));
}

}  // namespace

void AccumulateSecondMoment(const ActivationRows& x, float* h, int num_threads) {
  CheckDtype(x);
  AlignedVector<float> buffer;
  const MatrixView<float> out(h, x.cols, x.cols);
  for (std::int64_t begin = 0; begin < x.rows; begin += kRowBlock) {
    const auto rows = FloatRows(x, begin, std::min(kRowBlock, x.rows - begin), buffer, num_threads);
    const std::int64_t panels = Panels(x.cols);
    // The last panel is the longest.
    ThreadPool::Shared().ParallelFor(panels, num_threads, [&](std::int64_t i) { AddPanel(rows, panels - 1 - i, out); });
  }
}

void AccumulateCrossMoment(const ActivationRows& a, const ActivationRows& b, float* c, int num_threads) {
  CheckDtype(a);
  CheckDtype(b);
  if (a.rows != b.rows) {
    throw Error(ErrorCode::kShapeMismatch,
                std::to_string(a.rows) + " rows of activations and " + std::to_string(b.rows) + " do not pair",
                {.remedy = "Give the same samples to both."});
  }
  AlignedVector<float> a_buffer;
  AlignedVector<float> b_buffer;
  const MatrixView<float> out(c, a.cols, b.cols);
  for (std::int64_t begin = 0; begin < a.rows; begin += kRowBlock) {
    const std::int64_t count = std::min(kRowBlock, a.rows - begin);
    const auto left = FloatRows(a, begin, count, a_buffer, num_threads);
    const auto right = FloatRows(b, begin, count, b_buffer, num_threads);
    ThreadPool::Shared().ParallelFor(Panels(b.cols), num_threads, [&](std::int64_t p) {
      const std::int64_t width = std::min(kPanel, b.cols - p * kPanel);
      Gemm<float>(Transpose::kYes, Transpose::kNo, 1, left, right.Cols(p * kPanel, width), 1,
                  out.Cols(p * kPanel, width));
    });
  }
}

void MirrorUpper(float* h, std::int64_t n) {
  constexpr std::int64_t kTile = 32;
  for (std::int64_t i0 = 0; i0 < n; i0 += kTile) {
    for (std::int64_t j0 = 0; j0 <= i0; j0 += kTile) {
      for (std::int64_t i = i0; i < std::min(n, i0 + kTile); ++i) {
        for (std::int64_t j = j0; j < std::min(i, j0 + kTile); ++j) h[i * n + j] = h[j * n + i];
      }
    }
  }
}

}  // namespace arrow_quant
