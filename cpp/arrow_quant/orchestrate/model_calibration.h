#pragma once

#include <string>
#include <vector>

#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/orchestrate/model_options.h"

namespace arrow_quant {

// The activations that a run may use, or none.
struct ModelCalibration {
  const StatisticsSource* statistics = nullptr;
  std::string kind = "none";         // "activations" of given samples, "synthetic": the model's own sampling
  std::vector<double> time_weights;  // one per time group; empty: all rows count alike
};

// How much each time group counts, from what the configuration asks for; empty: all rows alike. Throws Error
// kConfiguration where the statistics cannot serve it.
std::vector<double> TimeWeightsOf(const TimeWeightOptions& options, const StatisticsSource& statistics);

}  // namespace arrow_quant
