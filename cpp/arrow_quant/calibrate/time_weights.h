#pragma once

#include <span>
#include <vector>

namespace arrow_quant {

// The most that one time group may count beside another. Weighting the noisiest groups 8 times gained 0.8 dB on a DiT
// at 2 bits; measured sensitivities span a factor of 1000, which would leave the others without samples.
inline constexpr double kLargestTimeRatio = 8;

// Weights with mean 1 from what a relative error of the model's output in each time group does to the final sample:
// in proportion, but none below 1 / kLargestTimeRatio of the largest. All 1 where nothing was measured.
std::vector<double> SensitivityWeights(std::span<const double> sensitivity);

// Weights with mean 1 for fine detail: the least noisy third of `groups`, which is the first, counts kLargestTimeRatio
// times.
std::vector<double> DetailWeights(int groups);

}  // namespace arrow_quant
