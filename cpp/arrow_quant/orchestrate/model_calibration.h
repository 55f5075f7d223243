#pragma once

#include <string>
#include <vector>

#include "arrow_quant/calibrate/activation_statistics.h"

namespace arrow_quant {

// The activations that a run may use, or none.
struct ModelCalibration {
  const StatisticsSource* statistics = nullptr;
  std::string kind = "none";         // "activations" of given samples, "synthetic": the model's own sampling
  std::vector<double> time_weights;  // one per time group; empty: all rows count alike
};

}  // namespace arrow_quant
