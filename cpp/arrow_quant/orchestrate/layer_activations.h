#pragma once

#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/orchestrate/activation_tables.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/orchestrate/strategy.h"
#include "arrow_quant/quantize/quantized_matrix.h"

namespace arrow_quant {

// What integer codes make of a layer's input, for the ways in which its weight may be quantized. All arguments outlive
// this; `inputs` fit the weight.
class LayerActivations {
 public:
  LayerActivations(const LayerInputs& inputs, const InputLayout& layout, const TimeGroups& seen_groups,
                   const ActivationOptions& options, const Strategy& strategy);

  // Relative output error on held-out rows with codes of the width that the model is meant for (8 bits where it is
  // meant for floating point) in ranges that hold all that was seen: the mean over time groups. 0 without held-out
  // rows.
  double Error(const QuantizedMatrix& matrix) const;

  // Static ranges for the transformed input, of a shifted one where the strategy wants that or held-out rows gain by
  // it.
  ActivationOutcome Table(const QuantizedMatrix& matrix) const;

 private:
  ActivationOutcome Make(const QuantizedMatrix& matrix, const std::vector<float>& shift,
                         const ActivationOptions& options) const;

  const LayerInputs& inputs_;
  InputLayout layout_;
  const TimeGroups& seen_groups_;
  const ActivationOptions& options_;
  const Strategy& strategy_;
};

}  // namespace arrow_quant
