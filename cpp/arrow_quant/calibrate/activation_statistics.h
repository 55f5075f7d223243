#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/calibrate/input_statistics.h"
#include "arrow_quant/calibrate/time_groups.h"

namespace arrow_quant {

// The input of one layer: one entry, or one per group of a grouped convolution, in the order of its output channels.
using LayerInputs = std::vector<std::shared_ptr<const InputStatistics>>;

// A tensor of a model: component ("" where there is one) and name.
using LayerKey = std::pair<std::string, std::string>;

// Where quantization finds the activations of a layer.
class StatisticsSource {
 public:
  virtual ~StatisticsSource() = default;
  virtual const TimeGroups& time_groups() const = 0;
  // Empty when the samples never reached the layer. Thread-safe.
  virtual LayerInputs Find(const LayerKey& layer) const = 0;
  // The layers that read what this one reads, itself among them; empty when it was never reached.
  virtual std::vector<LayerKey> SharingInput(const LayerKey& layer) const = 0;
  // What a relative error of the model's output in each time group does to the final sample; empty: not measured.
  virtual const std::vector<double>& sensitivity() const = 0;
  // Whether second moments were kept for each time group, or only merged.
  virtual bool keeps_groups() const = 0;
};

// The layers whose inputs have the same numbers as those of `layer`.
std::vector<LayerKey> LayersSharing(const std::map<LayerKey, std::vector<int>>& layers, const LayerKey& layer);

// One finite value of at least 0 per time group. Throws Error kInvalidArgument.
void CheckSensitivity(const std::vector<double>& sensitivity, const TimeGroups& groups);

// Statistics of a whole model in memory. Layers that read the same tensor share one input.
class ActivationStatistics final : public StatisticsSource {
 public:
  ActivationStatistics(TimeGroups groups, bool keep_groups, std::int64_t held_out_rows, std::uint64_t seed);

  // A new input; its number.
  int AddInput(std::int64_t channels);
  // Says which inputs a layer reads. Throws Error kInvalidArgument for an unknown one.
  void MapLayer(const LayerKey& layer, std::vector<int> inputs);
  // Rows seen at `time`: into the second moment, or into the reservoir. `reference`: see InputStatistics::Update.
  void Update(int input, const ActivationRows& rows, double time, bool held_out, int num_threads,
              const ActivationRows* reference = nullptr);
  // The same layers and inputs from other samples. Throws Error kShapeMismatch.
  void Merge(const ActivationStatistics& other);

  const TimeGroups& time_groups() const override { return groups_; }
  LayerInputs Find(const LayerKey& layer) const override;
  std::vector<LayerKey> SharingInput(const LayerKey& layer) const override { return LayersSharing(layers_, layer); }
  const std::vector<double>& sensitivity() const override { return sensitivity_; }
  bool keeps_groups() const override { return options_.keep_groups; }
  // One value of at least 0 per time group. Throws Error kInvalidArgument.
  void SetSensitivity(std::vector<double> sensitivity);

  const InputStatistics& input(int i) const;
  int size() const { return static_cast<int>(inputs_.size()); }
  const std::map<LayerKey, std::vector<int>>& layers() const { return layers_; }
  const StatisticsOptions& options() const { return options_; }

 private:
  InputStatistics& Mutable(int i);

  TimeGroups groups_;
  StatisticsOptions options_;
  std::vector<std::shared_ptr<InputStatistics>> inputs_;
  std::map<LayerKey, std::vector<int>> layers_;
  std::vector<double> sensitivity_;
};

}  // namespace arrow_quant
