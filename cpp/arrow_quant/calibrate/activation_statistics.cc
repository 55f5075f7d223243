#include "arrow_quant/calibrate/activation_statistics.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "arrow_quant/base/error.h"

namespace arrow_quant {

ActivationStatistics::ActivationStatistics(TimeGroups groups, bool keep_groups, std::int64_t held_out_rows,
                                           std::uint64_t seed)
    : groups_(std::move(groups)),
      options_{.groups = groups_.size(), .keep_groups = keep_groups, .held_out_rows = held_out_rows, .seed = seed} {}

int ActivationStatistics::AddInput(std::int64_t channels) {
  StatisticsOptions options = options_;
  options.seed += inputs_.size();
  inputs_.push_back(std::make_shared<InputStatistics>(channels, options));
  return size() - 1;
}

InputStatistics& ActivationStatistics::Mutable(int i) {
  if (i < 0 || i >= size()) {
    throw Error(ErrorCode::kInvalidArgument, "there is no input " + std::to_string(i) + " in the statistics");
  }
  return *inputs_[static_cast<std::size_t>(i)];
}

const InputStatistics& ActivationStatistics::input(int i) const {
  return const_cast<ActivationStatistics*>(this)->Mutable(i);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

void ActivationStatistics::MapLayer(const LayerKey& layer, std::vector<int> inputs) {
  for (int i : inputs) Mutable(i);
  layers_[layer] = std::move(inputs);
}

void ActivationStatistics::Update(int input, const ActivationRows& rows, double time, bool held_out, int num_threads,
                                  const ActivationRows* reference) {
  InputStatistics& statistics = Mutable(input);
  const int group = groups_.Of(time);
  if (held_out) {
    statistics.HoldOut(rows, group, reference);
  } else {
    statistics.Update(rows, group, time, num_threads, reference);
  }
}

void ActivationStatistics::Merge(const ActivationStatistics& other) {
  if (other.layers_ != layers_ || other.groups_.boundaries() != groups_.boundaries()) {
    throw Error(ErrorCode::kShapeMismatch, "statistics of different models or time groups cannot be merged");
  }
  for (int i = 0; i < size(); ++i) Mutable(i).Merge(other.input(i));
}

void ActivationStatistics::SetSensitivity(std::vector<double> sensitivity) {
  CheckSensitivity(sensitivity, groups_);
  sensitivity_ = std::move(sensitivity);
}

std::vector<LayerKey> LayersSharing(const std::map<LayerKey, std::vector<int>>& layers, const LayerKey& layer) {
  const auto own = layers.find(layer);
  if (own == layers.end()) return {};
  std::vector<LayerKey> sharing;
  for (const auto& [key, inputs] : layers) {
    if (inputs == own->second) sharing.push_back(key);
  }
  return sharing;
}

void CheckSensitivity(const std::vector<double>& sensitivity, const TimeGroups& groups) {
  if (sensitivity.size() != static_cast<std::size_t>(groups.size())) {
    throw Error(ErrorCode::kInvalidArgument, std::to_string(sensitivity.size()) + " sensitivities for " +
                                                 std::to_string(groups.size()) + " time groups");
  }
  if (std::all_of(sensitivity.begin(), sensitivity.end(), [](double s) { return std::isfinite(s) && s >= 0; })) return;
  throw Error(ErrorCode::kInvalidArgument, "a sensitivity is negative or not a number");
}

LayerInputs ActivationStatistics::Find(const LayerKey& layer) const {
  const auto it = layers_.find(layer);
  if (it == layers_.end()) return {};
  LayerInputs found;
  for (int i : it->second) {
    if (input(i).total_count() == 0) return {};
    found.push_back(inputs_[static_cast<std::size_t>(i)]);
  }
  return found;
}

}  // namespace arrow_quant
