#pragma once

// Every kernel, over the vector types of the vec_*-inl.h that is included before. Everything here has internal linkage.

#include "arrow_quant/kernels/affine-inl.h"
#include "arrow_quant/kernels/dequantize_row-inl.h"
#include "arrow_quant/kernels/fit_affine-inl.h"
#include "arrow_quant/kernels/kernel_table.h"
#include "arrow_quant/kernels/pack-inl.h"
#include "arrow_quant/kernels/reduce-inl.h"
#include "arrow_quant/kernels/rounding_binary-inl.h"
#include "arrow_quant/kernels/rounding_columns-inl.h"
#include "arrow_quant/kernels/rounding_sums-inl.h"
#include "arrow_quant/kernels/widen-inl.h"

namespace arrow_quant {
namespace {

constexpr KernelTable MakeTable() {
  KernelTable table{};
  table.f16_to_f32 = F16ToF32;
  table.bf16_to_f32 = BF16ToF32;
  table.min_max = MinMaxOf;
  table.dot = Dot;
  table.error_sums = ErrorSumsOf;
  table.quantize = Quantize;
  table.dequantize = Dequantize;
  table.pack = Pack;
  table.unpack = Unpack;
  table.dequantize_row = DequantizeRow;
  table.dequantize_row_binary = DequantizeRowBinary;
  table.fit_affine = FitAffine;
  table.round_columns = RoundColumns<AffineColumn>;
  table.round_columns_binary = RoundColumns<BinaryColumn>;
  table.column_errors = ColumnErrors<AffineColumn>;
  table.column_errors_binary = ColumnErrors<BinaryColumn>;
  table.dot_columns = DotColumns;
  table.subtract_columns = SubtractColumns;
  table.subtract_outer = SubtractOuter;
  table.lookup4 = Lookup4;
  table.binary_moments = BinaryMoments;
  return table;
}

}  // namespace
}  // namespace arrow_quant
