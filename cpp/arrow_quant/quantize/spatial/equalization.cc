#include "arrow_quant/quantize/spatial/equalization.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "arrow_quant/numeric/significant_bits.h"
#include "arrow_quant/quantize/affine_grid.h"

namespace arrow_quant {
namespace {

constexpr int kLargestExponent = 6;

// Ranks from 0, equal values sharing their mean.
std::vector<double> Ranks(std::span<const float> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return values[a] < values[b] || (values[a] == values[b] && a < b); });
  std::vector<double> ranks(values.size());
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i) ranks[order[i]] = static_cast<double>(begin + end - 1) / 2;
    begin = end;
  }
  return ranks;
}

// Powers of two, over the least; an exponent that is not finite is of a channel without scale.
std::vector<float> ScalesOf(std::vector<double> exponents) {
  double sum = 0;
  std::size_t count = 0;
  for (const double e : exponents) {
    if (!std::isfinite(e)) continue;
    sum += e;
    ++count;
  }
  const double mean = count > 0 ? sum / static_cast<double>(count) : 0;
  double least = 0;
  for (double& e : exponents) {
    e = std::isfinite(e) ? std::clamp<double>(e - mean, -kLargestExponent, kLargestExponent) : 0;
    least = std::min(least, e);
  }
  std::vector<float> scales;
  scales.reserve(exponents.size());
  for (const double e : exponents) {
    scales.push_back(RoundToSignificantBits(static_cast<float>(std::exp2(e - least)), kScaleSignificantBits));
  }
  return scales;
}

// Weights of time groups: exp(-rho) over their sum.
std::vector<double> GroupWeights(const ChannelMagnitudes& magnitudes) {
  std::vector<double> weights;
  double sum = 0;
  weights.reserve(magnitudes.inputs.size());
  for (const std::vector<float>& input : magnitudes.inputs) {
    weights.push_back(std::exp(-RankCorrelation(input, magnitudes.weight)));
    sum += weights.back();
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

}  // namespace

std::string_view EqualizationKindName(EqualizationKind kind) {
  constexpr std::array<std::string_view, 4> kNames = {"none", "columns", "balance", "grid"};
  return kNames[static_cast<std::size_t>(kind)];
}

double RankCorrelation(std::span<const float> a, std::span<const float> b) {
  const std::vector<double> x = Ranks(a);
  const std::vector<double> y = Ranks(b);
  const double mean = (static_cast<double>(x.size()) - 1) / 2;
  double xy = 0;
  double xx = 0;
  double yy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

std::vector<float> BalanceScales(const ChannelMagnitudes& magnitudes) {
  const std::vector<double> weights = GroupWeights(magnitudes);
  std::vector<double> exponents(magnitudes.weight.size());
  for (std::size_t c = 0; c < exponents.size(); ++c) {
    double input = 0;
    for (std::size_t g = 0; g < weights.size(); ++g) {
      input += weights[g] * static_cast<double>(magnitudes.inputs[g][c]);
    }
    exponents[c] = (std::log2(static_cast<double>(magnitudes.weight[c])) - std::log2(input)) / 2;
  }
  return ScalesOf(std::move(exponents));
}

std::vector<float> MigrationScales(const ChannelMagnitudes& magnitudes, double alpha) {
  std::vector<double> exponents(magnitudes.weight.size());
  for (std::size_t c = 0; c < exponents.size(); ++c) {
    float largest = 0;
    for (const std::vector<float>& input : magnitudes.inputs) largest = std::max(largest, input[c]);
    const double weight = std::log2(static_cast<double>(magnitudes.weight[c]));
    exponents[c] = (1 - alpha) * weight - alpha * std::log2(static_cast<double>(largest));
    if (largest == 0 || magnitudes.weight[c] == 0) exponents[c] = HUGE_VAL;
  }
  return ScalesOf(std::move(exponents));
}

std::vector<double> MigrationGrid() {
  constexpr int kSteps = 20;
  std::vector<double> grid;
  grid.reserve(kSteps + 1);
  for (int i = 0; i <= kSteps; ++i) grid.push_back(static_cast<double>(i) / kSteps);
  return grid;
}

std::vector<float> SpreadOverTaps(std::span<const float> scales, std::int64_t taps) {
  std::vector<float> spread;
  spread.reserve(scales.size() * static_cast<std::size_t>(taps));
  for (const float scale : scales) spread.insert(spread.end(), static_cast<std::size_t>(taps), scale);
  return spread;
}

}  // namespace arrow_quant
