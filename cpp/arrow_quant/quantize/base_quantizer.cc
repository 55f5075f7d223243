#include "arrow_quant/quantize/base_quantizer.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/quantize/spatial/block_hadamard.h"

namespace arrow_quant {
namespace {

std::int64_t FirstNonFinite(MatrixView<const float> w) {
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (std::int64_t c = 0; c < w.cols; ++c) {
      if (!std::isfinite(w(r, c))) return r * w.cols + c;
    }
  }
  return -1;
}

// Codes of one row, and its grids.
void QuantizeRow(const float* w, GridFit fit, std::int64_t row, QuantizedMatrix& out, std::uint8_t* codes,
                 BlockReport& report) {
  const int max_code = (1 << out.bits) - 1;
  const std::int64_t groups = out.groups();
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t begin = g * out.group_size;
    const auto n = static_cast<std::size_t>(std::min(out.group_size, out.cols - begin));
    const MinMax range = Kernels().min_max(w + begin, n);
    if (!range.finite) {
      report.non_finite_at = 0;
      return;
    }
    if (range.low == range.high) ++report.constant_groups;
    const AffineParams grid =
        fit == GridFit::kFitted ? FittedGrid(w + begin, nullptr, n, range, out.bits) : MinMaxGrid(range, out.bits);
    Kernels().quantize(w + begin, n, grid, max_code, codes + begin);
    const auto at = static_cast<std::size_t>(row * groups + g);
    out.scales[at] = grid.scale;
    out.zero_points[at] = grid.zero_point;
  }
}

void AddSums(const ErrorSums& part, ErrorSums& total) {
  total.ww += part.ww;
  total.wq += part.wq;
  total.qq += part.qq;
  total.ee += part.ee;
}

}  // namespace

void CheckBaseOptions(const BaseOptions& options) {
  if (options.bits != 2 && options.bits != 3 && options.bits != 4 && options.bits != 8) {
    throw Error(ErrorCode::kInvalidArgument, "bit_width is " + std::to_string(options.bits),
                {.remedy = "Use 2, 3, 4 or 8."});
  }
  if (options.group_size != -1 && options.group_size < 1) {
    throw Error(ErrorCode::kInvalidArgument, "group_size is " + std::to_string(options.group_size),
                {.remedy = "Use 16, 32, 64, 128 or 256, or -1 for one group per output channel."});
  }
}

QuantizedMatrix AllocateQuantized(std::int64_t rows, std::int64_t cols, const BaseOptions& options) {
  CheckBaseOptions(options);
  QuantizedMatrix out;
  out.rows = rows;
  out.cols = cols;
  out.bits = options.bits;
  out.group_size = options.group_size == -1 ? std::max<std::int64_t>(cols, 1)
                                            : std::min(options.group_size, std::max<std::int64_t>(cols, 1));
  out.codes.resize(static_cast<std::size_t>(PackedBytes(rows * cols, options.bits)));
  out.scales.resize(static_cast<std::size_t>(rows * out.groups()));
  out.zero_points.resize(out.scales.size());
  return out;
}

BlockReport QuantizeRowBlock(MatrixView<const float> w, GridFit fit, std::int64_t row_begin, QuantizedMatrix& out) {
  BlockReport report;
  AlignedVector<std::uint8_t> codes(static_cast<std::size_t>(w.size()));
  AlignedVector<float> values(static_cast<std::size_t>(w.cols));
  const auto groups = static_cast<std::size_t>(out.groups());
  for (std::int64_t r = 0; r < w.rows; ++r) {
    QuantizeRow(w.Row(r), fit, row_begin + r, out, codes.data() + r * w.cols, report);
    if (report.non_finite_at) {
      report.non_finite_at = FirstNonFinite(w);
      return report;
    }
  }
  std::uint8_t* bytes = out.codes.data() + row_begin * out.cols * out.bits / 8;
  Kernels().pack(codes.data(), codes.size(), out.bits, bytes);
  for (std::int64_t r = 0; r < w.rows; ++r) {
    const std::size_t at = static_cast<std::size_t>(row_begin + r) * groups;
    Kernels().dequantize_row(bytes, static_cast<std::size_t>(r * w.cols), static_cast<std::size_t>(w.cols), out.bits,
                             static_cast<std::size_t>(out.group_size), out.scales.data() + at,
                             out.zero_points.data() + at, values.data());
    AddSums(Kernels().error_sums(w.Row(r), values.data(), static_cast<std::size_t>(w.cols)), report.sums);
  }
  return report;
}

QuantizedMatrix QuantizeBase(MatrixView<const float> w, const BaseOptions& options, int threads) {
  QuantizedMatrix out = AllocateQuantized(w.rows, w.cols, options);
  const std::int64_t block = 64;
  const std::int64_t blocks = (w.rows + block - 1) / block;
  ThreadPool::Shared().ParallelFor(blocks, threads, [&](std::int64_t b) {
    const std::int64_t begin = b * block;
    const BlockReport report =
        QuantizeRowBlock(w.Rows(begin, std::min(block, w.rows - begin)), options.fit, begin, out);
    if (report.non_finite_at) {
      throw Error(ErrorCode::kQuantization,
                  "NaN or Inf at flat index " + std::to_string(begin * w.cols + *report.non_finite_at),
                  {.remedy = "Repair the weight, or keep the tensor with on_nonfinite=keep."});
    }
  });
  return out;
}

void DequantizeTransformedRows(const QuantizedMatrix& matrix, std::int64_t row_begin, std::int64_t row_count,
                               float* out) {
  const auto groups = static_cast<std::size_t>(matrix.groups());
  const auto cols = static_cast<std::size_t>(matrix.cols);
  const auto group_size = static_cast<std::size_t>(matrix.group_size);
  for (std::int64_t r = row_begin; r < row_begin + row_count; ++r) {
    const auto row = static_cast<std::size_t>(r);
    const std::size_t at = row * groups;
    if (matrix.grid == GridKind::kResidualBinary) {
      Kernels().dequantize_row_binary(matrix.codes.data(), row * cols, cols, group_size, matrix.scales.data() + at,
                                      matrix.residual_scales.data() + at, matrix.zero_points.data() + at, out);
    } else {
      Kernels().dequantize_row(matrix.codes.data(), row * cols, cols, matrix.bits, group_size,
                               matrix.scales.data() + at, matrix.zero_points.data() + at, out);
    }
    out += cols;
  }
}

void DequantizeRows(const QuantizedMatrix& matrix, std::int64_t row_begin, std::int64_t row_count, float* out) {
  DequantizeTransformedRows(matrix, row_begin, row_count, out);
  const MatrixView<float> rows(out, row_count, matrix.cols);
  if (matrix.rotation_seed) UnrotateRows(rows, *matrix.rotation_seed);
  for (std::int64_t r = 0; r < row_count; ++r) {
    for (std::size_t c = 0; c < matrix.column_scales.size(); ++c) rows.Row(r)[c] *= matrix.column_scales[c];
  }
}

}  // namespace arrow_quant
