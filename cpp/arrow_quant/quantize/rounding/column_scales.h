#pragma once

#include <vector>

#include "arrow_quant/base/matrix_view.h"
#include "arrow_quant/quantize/rounding/hessian_metric.h"

namespace arrow_quant {

// One scale for each column of the weight, near 1 on average and in stored precision: its root mean square over the
// rows, less for loud inputs, so that these get the finer steps (the balance of weights and activations of SmoothQuant,
// Xiao et al. 2023, and AWQ, Lin et al. 2024, with the exponents that suit error feedback: 1 for the weight and 0.15
// for the root of the diagonal of H). Rounding weight / scale and multiplying back keeps one large column from
// coarsening the grids of its whole group.
std::vector<float> ColumnScales(MatrixView<const float> weight, const HessianMetric& metric);

}  // namespace arrow_quant
