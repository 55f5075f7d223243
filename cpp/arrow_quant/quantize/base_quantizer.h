#pragma once

#include <cstdint>
#include <optional>

#include "arrow_quant/base/matrix_view.h"
#include "arrow_quant/kernels/kernels.h"
#include "arrow_quant/quantize/affine_grid.h"
#include "arrow_quant/quantize/quantized_matrix.h"

namespace arrow_quant {

// Rows in one block are a multiple of this, so that each block's packed codes begin with a whole byte.
inline constexpr std::int64_t kRowBlockMultiple = 8;

struct BaseOptions {
  int bits = 4;                   // 2, 3, 4 or 8
  std::int64_t group_size = 128;  // columns per group; -1 for one group per row
  GridFit fit = GridFit::kMinMax;
};

// What happened in a block of rows.
struct BlockReport {
  ErrorSums sums;
  std::int64_t constant_groups = 0;
  std::optional<std::int64_t>
      non_finite_at;  // flat index, in the block, of the first NaN or Inf; nothing is quantized then
};

// Throws Error kInvalidArgument for bits or group sizes that are not allowed.
void CheckBaseOptions(const BaseOptions& options);

// An empty matrix of the given shape with its arrays allocated.
QuantizedMatrix AllocateQuantized(std::int64_t rows, std::int64_t cols, const BaseOptions& options);

// Nearest rounding of rows [row_begin, row_begin + w.rows) of `out`, group by group along the columns; the base
// quantizer, and the last step of every fallback. row_begin is a multiple of kRowBlockMultiple. Blocks are independent:
// any split of the rows into blocks, on any threads, gives the same bytes.
BlockReport QuantizeRowBlock(MatrixView<const float> w, GridFit fit, std::int64_t row_begin, QuantizedMatrix& out);

// All of `w`, blocks in parallel over the shared pool. Throws Error kQuantization naming the index of a NaN or Inf.
QuantizedMatrix QuantizeBase(MatrixView<const float> w, const BaseOptions& options, int threads = 0);

// Rows [row_begin, row_begin + row_count) as float32 into out [row_count, cols].
void DequantizeRows(const QuantizedMatrix& matrix, std::int64_t row_begin, std::int64_t row_count, float* out);
// The values W' that the codes stand for, which a transformed input is multiplied by; the same where the matrix has
// neither column scales nor a rotation.
void DequantizeTransformedRows(const QuantizedMatrix& matrix, std::int64_t row_begin, std::int64_t row_count,
                               float* out);

}  // namespace arrow_quant
