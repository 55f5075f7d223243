#pragma once

#include <cstdint>

#include "arrow_quant/quantize/rounding/panel.h"

namespace arrow_quant {

// Fits the grid of every row of the panel for group `group` to columns [count][panel.stride] by least squares with
// weight `importance` [count] of each column, rounded to stored precision.
void FitGroup(Panel& panel, const RoundingProblem& problem, std::int64_t group, const float* columns,
              const float* importance);

// Every group on its own weights, with the diagonal of H for importance.
void FitStaticGrids(Panel& panel, const RoundingProblem& problem);

// The part of FitGroup for residual binary grids: signs of the weights less their middle, signs of the rest, and least
// squares for middle and both scales, in turn (the alternating multi-bit fit of Xu et al. 2018, "Alternating multi-bit
// quantization", with a middle). Weights are finite.
void FitBinaryGroup(Panel& panel, std::int64_t group, const float* columns, const float* importance,
                    std::int64_t count);

}  // namespace arrow_quant
