#include "arrow_quant/orchestrate/model_equalization.h"

#include <algorithm>
#include <span>

#include "arrow_quant/orchestrate/activation_tables.h"
#include "arrow_quant/orchestrate/calibrated_rounding.h"
#include "arrow_quant/orchestrate/float8_weight.h"
#include "arrow_quant/orchestrate/tensor_quantizer.h"

namespace arrow_quant {

ModelEqualization::ModelEqualization(std::vector<PlannedComponent> components, const ModelOptions& options,
                                     const Strategy& strategy, const ModelCalibration& calibration)
    : components_(std::move(components)),
      options_(options),
      wanted_(strategy.transforms.balance || strategy.transforms.grid),
      time_aware_(strategy.time_aware_activations),
      statistics_(calibration.statistics) {
  for (std::size_t c = 0; c < components_.size(); ++c) {
    const auto& tensors = components_[c].component.checkpoint.tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const TensorPlan& plan = components_[c].plans[i];
      if (plan.decision.quantize && !plan.merged) places_[{components_[c].component.name, tensors[i].name}] = {c, i};
    }
  }
}

std::vector<ModelEqualization::Place> ModelEqualization::ReadersOf(const LayerKey& layer) const {
  std::vector<Place> readers;
  for (const LayerKey& reader : statistics_->SharingInput(layer)) {
    const auto place = places_.find(reader);
    if (place != places_.end()) readers.push_back(place->second);
  }
  std::sort(readers.begin(), readers.end());
  return readers;
}

ReadingWeight ModelEqualization::Load(const Place& place) const {
  const auto& [component, plans] = components_[place.first];
  const TensorPlan& plan = plans[place.second];
  const TensorInfo& info = component.checkpoint.tensors()[place.second];
  const MatrixShape& matrix = plan.decision.matrix;
  ReadingWeight weight;
  weight.group_size = OptionsOf(plan, options_).group_size;
  weight.bits = plan.bits == 16 ? 8 : plan.bits;
  weight.values.resize(static_cast<std::size_t>(matrix.rows * matrix.cols));
  if (plan.scale == nullptr) {
    ReadMatrixRows(info, component.checkpoint.Data(info), matrix, 0, matrix.rows, weight.values.data());
    return weight;
  }
  const ExpandedWeight expanded = ExpandFloat8(component.checkpoint, info, *plan.scale);
  ReadMatrixRows(expanded.info, expanded.bytes(), matrix, 0, matrix.rows, weight.values.data());
  return weight;
}

EqualizationScales ModelEqualization::Make(const LayerKey& layer, const std::vector<Place>& readers) const {
  const LayerInputs inputs = statistics_->Find(layer);
  const auto& [component, plans] = components_[readers.front().first];
  const MatrixShape& matrix = plans[readers.front().second].decision.matrix;
  const TensorInfo& info = component.checkpoint.tensors()[readers.front().second];
  if (inputs.size() != 1 || !Unfit(inputs, matrix.rows, matrix.cols).empty()) return {};
  std::vector<LoadWeight> weights;
  for (const Place& reader : readers) {
    // What does not fit the input reads it in another way.
    if (components_[reader.first].plans[reader.second].decision.matrix.cols != matrix.cols) continue;
    weights.emplace_back([this, reader] { return Load(reader); });
  }
  return MakeEqualizationScales(weights, *inputs.front(), InputLayoutOf(info, matrix, 1), options_.activations,
                                time_aware_);
}

EqualizationScales ModelEqualization::Of(const LayerKey& layer) {
  if (!wanted_ || statistics_ == nullptr || !places_.contains(layer)) return {};
  const std::vector<Place> readers = ReadersOf(layer);
  if (readers.empty()) return {};
  // Others wait, also for layers of another input: nothing in here waits for them.
  const std::lock_guard lock(mutex_);
  const auto made = made_.find(readers.front());
  if (made != made_.end()) return made->second;
  return made_[readers.front()] = Make(layer, readers);
}

}  // namespace arrow_quant
