#pragma once

#include <cstdint>
#include <utility>

#include "arrow_quant/base/matrix_view.h"
#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/orchestrate/activation_tables.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/orchestrate/time_correction.h"
#include "arrow_quant/quantize/spatial/input_transform.h"

namespace arrow_quant {

// Time-aware parameters of single layers, as a run over a model makes them.
class TimeAwareQuantizer {
 public:
  explicit TimeAwareQuantizer(ActivationOptions options) : options_(std::move(options)) {}

  // Static ranges for the input of `layer`, whose weight [rows, cols] has `taps` columns for each input channel; see
  // MakeActivationTable. Throws Error kShapeMismatch where the statistics do not fit the weight.
  ActivationOutcome Ranges(MatrixView<const float> weight, const StatisticsSource& statistics, const LayerKey& layer,
                           std::int64_t taps, const InputTransform& transform) const;
  // Gains and biases that pay for the quantized weight, both [rows, cols]; see MakeTimeCorrection. Throws as Ranges.
  CorrectionOutcome Corrections(MatrixView<const float> weight, MatrixView<const float> quantized,
                                const StatisticsSource& statistics, const LayerKey& layer) const;

 private:
  ActivationOptions options_;
};

}  // namespace arrow_quant
