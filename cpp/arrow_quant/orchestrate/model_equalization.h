#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "arrow_quant/model/source.h"
#include "arrow_quant/orchestrate/equalization_scales.h"
#include "arrow_quant/orchestrate/model_calibration.h"
#include "arrow_quant/orchestrate/strategy.h"
#include "arrow_quant/orchestrate/tensor_plan.h"

namespace arrow_quant {

// A component of a model and what its tensors get; both outlive what refers to them.
struct PlannedComponent {
  const SourceComponent& component;
  const std::vector<TensorPlan>& plans;
};

// Equalization scales of a model's layers. Those that read the same input get the same, so that the module before them
// can take them; they are made when the first of them asks.
class ModelEqualization final : public EqualizationSource {
 public:
  ModelEqualization(std::vector<PlannedComponent> components, const ModelOptions& options, const Strategy& strategy,
                    const ModelCalibration& calibration);

  // Empty where the strategy has no use for any, or the layer has several inputs. Thread-safe.
  EqualizationScales Of(const LayerKey& layer) override;

 private:
  // A tensor that is quantized: numbers of component and tensor.
  using Place = std::pair<std::size_t, std::size_t>;

  std::vector<Place> ReadersOf(const LayerKey& layer) const;
  ReadingWeight Load(const Place& place) const;
  EqualizationScales Make(const LayerKey& layer, const std::vector<Place>& readers) const;

  std::vector<PlannedComponent> components_;
  const ModelOptions& options_;
  bool wanted_;
  bool time_aware_;
  const StatisticsSource* statistics_;
  std::map<LayerKey, Place> places_;
  std::mutex mutex_;
  std::map<Place, EqualizationScales> made_;  // by the first reader
};

}  // namespace arrow_quant
