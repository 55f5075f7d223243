#pragma once

#include <cstdint>

#include "arrow_quant/base/matrix_view.h"

namespace arrow_quant {

// What rounding does to the outputs of a layer, Q the quantized W, E = W - Q: output energies and their product.
// Relative output error ee / ww; cosine of outputs wq / sqrt(ww qq).
struct OutputSums {
  double ww = 0;  // tr(W H W^T)
  double wq = 0;  // tr(W H Q^T)
  double qq = 0;  // tr(Q H Q^T)
  double ee = 0;  // tr(E H E^T)
};

// From the second moment, float32 [cols, cols], both triangles. weight and quantized are [rows, cols]. The bits do not
// depend on num_threads (0: all).
OutputSums MeasureOutput(MatrixView<const float> weight, MatrixView<const float> quantized, const float* hessian,
                         int num_threads);

// The same on rows of inputs x [n, cols] that H has not seen, H = x^T x / n.
OutputSums MeasureOutputOnRows(MatrixView<const float> weight, MatrixView<const float> quantized, const float* x,
                               std::int64_t n, int num_threads);

// The same where the quantized layer has other inputs than the float one: outputs W x_f of the float model against Q x,
// `reference` being the rows x_f [n, cols] in the places of x.
OutputSums MeasureOutputAgainst(MatrixView<const float> weight, MatrixView<const float> quantized,
                                const float* reference, const float* x, std::int64_t n, int num_threads);

}  // namespace arrow_quant
