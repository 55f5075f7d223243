#include "arrow_quant/orchestrate/spatial_quantizer.h"

#include <span>
#include <string>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/orchestrate/calibrated_rounding.h"

namespace arrow_quant {
namespace {

void CheckLayer(MatrixView<const float> weight, const StatisticsSource& statistics, const LayerKey& layer,
                std::int64_t taps) {
  const std::string unfit = Unfit(statistics.Find(layer), weight.rows, weight.cols);
  if (!unfit.empty()) {
    throw Error(ErrorCode::kShapeMismatch, unfit,
                {.tensor = layer.second, .remedy = "Give statistics in which samples reached this layer."});
  }
  if (taps < 1 || weight.cols % taps != 0) {
    throw Error(ErrorCode::kShapeMismatch,
                std::to_string(weight.cols) + " columns are no multiple of " + std::to_string(taps) + " taps",
                {.tensor = layer.second, .remedy = "Give the number of kernel positions, 1 for a linear layer."});
  }
}

// Scales for one layer alone.
class OneLayer final : public EqualizationSource {
 public:
  explicit OneLayer(EqualizationScales scales) : scales_(std::move(scales)) {}
  EqualizationScales Of(const LayerKey& /*layer*/) override { return scales_; }

 private:
  EqualizationScales scales_;
};

EqualizationScales ScalesOf(MatrixView<const float> weight, const LayerInputs& inputs, std::int64_t taps,
                            const ModelOptions& options, bool time_aware) {
  if (inputs.size() != 1) return {};
  const LoadWeight load = [&] {
    return ReadingWeight{{weight.data, weight.data + weight.size()}, options.group_size, options.bit_width};
  };
  return MakeEqualizationScales({&load, 1}, *inputs.front(), {1, weight.cols / taps, taps}, options.activations,
                                time_aware);
}

TensorInfo InfoOf(MatrixView<const float> weight, const std::string& name, std::int64_t taps) {
  TensorInfo info;
  info.name = name;
  info.dtype = DType::kF32;
  info.shape = {weight.rows, weight.cols / taps, taps};
  info.num_elements = weight.size();
  info.num_bytes = weight.size() * 4;
  return info;
}

}  // namespace

SpatialQuantizer::SpatialQuantizer(ModelOptions options) : options_(std::move(options)) {
  options_.min_accuracy = 0;  // the width is the caller's
  strategy_ = StrategyOf(Modality::kImage, options_, true);
}

TensorOutcome SpatialQuantizer::Quantize(MatrixView<const float> weight, const StatisticsSource& statistics,
                                         const LayerKey& layer, std::int64_t taps) const {
  CheckLayer(weight, statistics, layer, taps);
  const ModelCalibration calibration{&statistics, "activations", TimeWeightsOf(options_.time_weights, statistics)};
  const TensorInfo info = InfoOf(weight, layer.second, taps);
  TensorDecision decision;
  decision.quantize = true;
  decision.matrix = {.rows = weight.rows, .cols = weight.cols};
  OneLayer scales(ScalesOf(weight, statistics.Find(layer), taps, options_, strategy_.time_aware_activations));
  return QuantizeTensor({info, std::as_bytes(std::span(weight.data, static_cast<std::size_t>(weight.size()))), decision,
                         options_.bit_width, layer.first},
                        {options_, strategy_, calibration, &scales}, [](std::int64_t) {}, {});
}

}  // namespace arrow_quant
