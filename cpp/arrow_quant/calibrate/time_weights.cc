#include "arrow_quant/calibrate/time_weights.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace arrow_quant {
namespace {

std::vector<double> WithMeanOne(std::vector<double> weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight *= static_cast<double>(weights.size()) / sum;
  return weights;
}

}  // namespace

std::vector<double> SensitivityWeights(std::span<const double> sensitivity) {
  std::vector<double> weights(sensitivity.begin(), sensitivity.end());
  if (weights.empty()) return weights;
  const double largest = *std::max_element(weights.begin(), weights.end());
  if (!(largest > 0)) return std::vector<double>(weights.size(), 1.0);
  for (double& weight : weights) weight = std::max(weight, largest / kLargestTimeRatio);
  return WithMeanOne(std::move(weights));
}

std::vector<double> DetailWeights(int groups) {
  std::vector<double> weights(static_cast<std::size_t>(groups), 1.0);
  const auto favoured = weights.begin() + std::max(1, groups / 3);
  std::fill(weights.begin(), favoured, kLargestTimeRatio);
  return WithMeanOne(std::move(weights));
}

}  // namespace arrow_quant
