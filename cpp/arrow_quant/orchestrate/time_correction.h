#pragma once

#include <vector>

#include "arrow_quant/base/matrix_view.h"
#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/orchestrate/report.h"
#include "arrow_quant/quantize/time_aware/output_correction.h"

namespace arrow_quant {

// Gains and biases of a layer's outputs, with the time groups that they are for.
struct CorrectionOutcome {
  OutputCorrection correction;     // empty: none pays
  std::vector<double> boundaries;  // of its time groups; empty likewise
  CorrectionReport report;
};

// The correction that pays for a quantized weight, both [rows, cols], in at most `count` time groups; see
// ChooseCorrection. `inputs` must fit the weight. Without held-out rows there is none.
CorrectionOutcome MakeTimeCorrection(MatrixView<const float> weight, MatrixView<const float> quantized,
                                     const LayerInputs& inputs, const TimeGroups& seen_groups, int count);

}  // namespace arrow_quant
