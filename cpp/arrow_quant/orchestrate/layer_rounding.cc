#include "arrow_quant/orchestrate/layer_rounding.h"

#include "arrow_quant/orchestrate/calibrated_rounding.h"
#include "arrow_quant/orchestrate/model_calibration.h"
#include "arrow_quant/orchestrate/strategy.h"
#include "arrow_quant/quantize/base_quantizer.h"

namespace arrow_quant {
namespace {

QuantizedMatrix Round(MatrixView<const float> weight, const LayerInputs& inputs, int bits,
                      const std::vector<double>& time_weights, const Strategy& strategy, const ModelOptions& options) {
  const RoundingOptions rounding = RoundingOptionsOf(options, bits);
  if (!strategy.error_feedback || !Unfit(inputs, weight.rows, weight.cols).empty()) {
    return RoundNearest(weight, nullptr, rounding);
  }
  return RoundCalibrated(weight, inputs, CandidatesOf(strategy, bits, inputs, {}, 0), time_weights, rounding, {})
      .matrix;
}

}  // namespace

AlignedVector<float> RoundLayer(MatrixView<const float> weight, const LayerKey& layer, int bits,
                                const StatisticsSource& statistics, const std::optional<Modality>& modality,
                                const ModelOptions& options) {
  const QuantizedMatrix matrix =
      Round(weight, statistics.Find(layer), bits, TimeWeightsOf(options.time_weights, statistics),
            StrategyOf(modality, options, true), options);
  AlignedVector<float> values(static_cast<std::size_t>(weight.size()));
  DequantizeRows(matrix, 0, matrix.rows, values.data());
  return values;
}

}  // namespace arrow_quant
