#pragma once

#include <cstdint>
#include <stop_token>
#include <vector>

#include "arrow_quant/base/matrix_view.h"
#include "arrow_quant/quantize/quantized_matrix.h"

namespace arrow_quant {

// The order in which columns are rounded; each is rounded with the errors of those before it.
enum class ColumnOrder {
  kActivation,  // falling diagonal of the second moment, grids fitted beforehand
  kNatural,     // left to right, the grid of a group fitted on weights that carry the errors so far
};

struct RoundingOptions {
  int bits = 4;                   // 2, 3, 4 or 8; 2 for a residual binary grid
  std::int64_t group_size = 128;  // columns per group; -1 for one group per row
  GridKind grid = GridKind::kAffine;
  ColumnOrder order = ColumnOrder::kActivation;
  int rounds = 2;           // of refinement after the first rounding
  double dampening = 0.01;  // of the mean diagonal, added to the diagonal
  int num_threads = 0;      // 0: all
  // Whether columns are brought to about the same size first (ColumnScales), so that one large column does not coarsen
  // the grids of its group: 32 / rows more bits a weight. Of RoundWithHessian only.
  bool column_scales = false;
  std::vector<float> scales = {};  // [cols] that columns are divided by instead; empty: none are given
};

struct RoundingResult {
  QuantizedMatrix matrix;
  double dampening = 0;   // what was used in the end
  bool diagonal = false;  // no dampening up to 1 made the second moment positive definite: its diagonal alone was used
  bool float64 = false;   // factored in double, because float32 left too few digits
};

// Rounds a weight [rows, cols] so that tr(E H E^T), E the error, is small: the output error of the layer for inputs
// with the second moment H = E[x x^T], `hessian` [cols, cols], float32, row-major, both triangles given. Columns whose
// diagonal is not positive (inputs that were never active) count as uncorrelated with a mean diagonal.
//
// Steps: grids by weighted least squares, rounding with error feedback (LDLQ: Chee et al. 2023, QuIP, which they show
// to equal OPTQ/GPTQ, Frantar et al. 2023), then rounds of refitted grids (least squares in the metric of H) and
// coordinate descent (Behdin et al. 2023, QuantEase; Nair and Suggala 2024, CDQuant). A round never increases tr(E H
// E^T) of the dampened H. Where H is not positive definite the dampening grows tenfold up to 1, then its diagonal alone
// is used; the result says so. The bits depend neither on num_threads nor on the instruction set of the kernels.
//
// Throws Error kInvalidArgument for options out of range, kQuantization for NaN or Inf (naming the place), kCancelled.
RoundingResult RoundWithHessian(MatrixView<const float> weight, const float* hessian, const RoundingOptions& options,
                                const std::stop_token& stop = {});

// Nearest rounding on grids fitted by least squares, each column weighted by `importance` [cols], for example the
// diagonal of H; null: all the same. Values that are not positive count as the mean. Of the options bits, group_size,
// grid and num_threads matter. The same guarantees and errors.
QuantizedMatrix RoundNearest(MatrixView<const float> weight, const float* importance, const RoundingOptions& options,
                             const std::stop_token& stop = {});

}  // namespace arrow_quant
