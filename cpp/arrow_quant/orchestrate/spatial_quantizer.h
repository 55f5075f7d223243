#pragma once

#include <cstdint>

#include "arrow_quant/base/matrix_view.h"
#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/orchestrate/tensor_quantizer.h"

namespace arrow_quant {

// Spatial quantization of single layers, as a run over a model makes it.
class SpatialQuantizer {
 public:
  // Of `options` those of rounding, of activations and of transforms matter, and bit_width.
  explicit SpatialQuantizer(ModelOptions options);

  // The weight [rows, cols] of `layer`, with `taps` columns for each input channel, transformed as held-out rows of its
  // input want it, rounded, and with static ranges for the transformed input. Throws Error kShapeMismatch where the
  // statistics do not fit the weight, kQuantization for NaN or Inf, kValidation under fail_fast.
  TensorOutcome Quantize(MatrixView<const float> weight, const StatisticsSource& statistics, const LayerKey& layer,
                         std::int64_t taps) const;

 private:
  ModelOptions options_;
  Strategy strategy_;
};

}  // namespace arrow_quant
