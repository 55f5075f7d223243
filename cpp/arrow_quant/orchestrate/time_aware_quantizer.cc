#include "arrow_quant/orchestrate/time_aware_quantizer.h"

#include <string>

#include "arrow_quant/base/error.h"
#include "arrow_quant/orchestrate/calibrated_rounding.h"

namespace arrow_quant {
namespace {

LayerInputs InputsOf(MatrixView<const float> weight, const StatisticsSource& statistics, const LayerKey& layer) {
  LayerInputs inputs = statistics.Find(layer);
  const std::string unfit = Unfit(inputs, weight.rows, weight.cols);
  if (unfit.empty()) return inputs;
  throw Error(ErrorCode::kShapeMismatch, unfit,
              {.tensor = layer.second, .remedy = "Give statistics in which samples reached this layer."});
}

}  // namespace

ActivationOutcome TimeAwareQuantizer::Ranges(MatrixView<const float> weight, const StatisticsSource& statistics,
                                             const LayerKey& layer, std::int64_t taps,
                                             const InputTransform& transform) const {
  const LayerInputs inputs = InputsOf(weight, statistics, layer);
  if (taps < 1 || weight.cols % taps != 0) {
    throw Error(ErrorCode::kShapeMismatch,
                std::to_string(weight.cols) + " columns are no multiple of " + std::to_string(taps) + " taps",
                {.tensor = layer.second, .remedy = "Give the number of kernel positions, 1 for a linear layer."});
  }
  const InputLayout layout{static_cast<std::int64_t>(inputs.size()), weight.cols / taps, taps};
  const bool time_aware = options_.enable_time_aware && options_.strategy_time_aware != "never";
  return MakeActivationTable(weight, inputs, transform, statistics.time_groups(), layout, options_, time_aware);
}

CorrectionOutcome TimeAwareQuantizer::Corrections(MatrixView<const float> weight, MatrixView<const float> quantized,
                                                  const StatisticsSource& statistics, const LayerKey& layer) const {
  if (weight.rows != quantized.rows || weight.cols != quantized.cols) {
    throw Error(ErrorCode::kShapeMismatch, "the weight and what it became have different shapes",
                {.tensor = layer.second, .remedy = "Give both as [rows, cols]."});
  }
  return MakeTimeCorrection(weight, quantized, InputsOf(weight, statistics, layer), statistics.time_groups(),
                            options_.time_groups);
}

}  // namespace arrow_quant
