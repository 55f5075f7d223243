#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/kernels/kernels.h"
#include "arrow_quant/quantize/quantized_matrix.h"
#include "arrow_quant/quantize/rounding/hessian_metric.h"

namespace arrow_quant {

// What all panels of one matrix share.
struct RoundingProblem {
  MatrixView<const float> weight;
  std::vector<float> column_scales;  // [cols] that the weight is divided by, in its own order; empty: ones
  int bits = 0;
  std::int64_t group_size = 0;
  std::int64_t groups = 0;
  GridKind grid = GridKind::kAffine;
  bool compensated_grids = false;  // fitted while rounding, from left to right; else before
  int rounds = 0;

  // Panels keep columns sorted by group, inside a group by falling diagonal; `columns` [cols] names them.
  std::vector<std::int32_t> columns;
  std::vector<float> diagonal;                // of the dampened H, [cols] in that order
  std::vector<float> inverse_diagonal;        // [cols] in that order
  std::vector<std::int32_t> group_of_column;  // [cols] in that order
  AlignedVector<float> hessian;               // dampened H [cols, cols] in that order; empty when rounds is 0
  std::vector<std::int32_t> visits;           // [cols]: the panel column that is rounded k-th
  std::vector<std::int32_t> group_of_visit;   // [cols]: its group
  HessianFactor factor;                       // in the order of visits
  std::vector<float> ones;                    // [cols]

  std::int64_t cols() const { return weight.cols; }
  std::int64_t GroupBegin(std::int64_t group) const { return group * group_size; }
  std::int64_t GroupCount(std::int64_t group) const { return std::min(group_size, cols() - group * group_size); }
};

// Some rows of the matrix, transposed: matrices are [cols or groups][stride], the rows of a column are neighbours, so
// that a vector holds one column of many rows and BLAS multiplies whole panels. Rows past `rows` are padding.
struct Panel {
  Panel(const RoundingProblem& problem, std::int64_t row_begin, std::int64_t row_count);

  std::int64_t row_begin;
  std::int64_t rows;
  std::int64_t stride;
  AlignedVector<float> weight;  // [cols][stride] in the order of problem.columns
  AlignedVector<float> error;   // weight - value
  AlignedVector<std::uint8_t> codes;
  AlignedVector<float> scales;       // [groups][stride], in stored precision
  AlignedVector<float> zero_points;  // middles of a residual binary grid
  AlignedVector<float> residual_scales;

  float* Grid(AlignedVector<float>& values, std::int64_t group) const { return values.data() + group * stride; }
};

// Rows in a panel: a multiple of kRoundingRows, a function of the shape alone.
std::int64_t PanelRows(std::int64_t rows);

// A block of panel columns for the kernels, pointing at the panel's own arrays from column `begin`.
RoundingBlock PanelBlock(Panel& panel, std::int64_t begin, std::int64_t count, int max_code, const std::int32_t* group);

// A range of columns [count][stride] that are rounded with feedback: see RoundRange.
struct ColumnRange {
  std::int64_t count;
  const float* weight;
  const float* gain;
  const std::int32_t* group;
  MatrixView<const float> coupling;  // [count, count]; without data: all zeros
  float* sum;                        // [count][stride], overwritten
  float* error;
  std::uint8_t* codes;
};

// Applies kernel round_columns to the range in blocks, adding what each block changes to the sums of the later ones.
// `delta` [count][stride] receives the changes of the error.
void RoundRange(Panel& panel, const RoundingProblem& problem, const ColumnRange& range, float* delta);

// Writes codes and grids of the panel's rows to `out`.
void StorePanel(const Panel& panel, const RoundingProblem& problem, QuantizedMatrix& out);

}  // namespace arrow_quant
