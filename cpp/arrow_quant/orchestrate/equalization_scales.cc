#include "arrow_quant/orchestrate/equalization_scales.h"

#include <algorithm>
#include <cmath>

#include "arrow_quant/quantize/spatial/equalization.h"
#include "arrow_quant/quantize/spatial/noise_model.h"

namespace arrow_quant {
namespace {

// By channel, over the positions of a kernel, in one time group.
InputExtremes ExtremesOf(const std::vector<Moments>& columns, const InputLayout& layout) {
  InputExtremes extremes;
  extremes.min.assign(static_cast<std::size_t>(layout.channels), 0.0F);
  extremes.max.assign(static_cast<std::size_t>(layout.channels), 0.0F);
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const std::size_t c = i / static_cast<std::size_t>(layout.taps);
    extremes.min[c] = std::min(extremes.min[c], columns[i].min);
    extremes.max[c] = std::max(extremes.max[c], columns[i].max);
  }
  return extremes;
}

InputExtremes Union(const std::vector<InputExtremes>& groups) {
  InputExtremes all = groups.front();
  for (const InputExtremes& group : groups) {
    for (std::size_t c = 0; c < all.min.size(); ++c) {
      all.min[c] = std::min(all.min[c], group.min[c]);
      all.max[c] = std::max(all.max[c], group.max[c]);
    }
  }
  return all;
}

// Of the time groups in which there were rows.
std::vector<InputExtremes> SeenExtremes(const InputStatistics& input, const InputLayout& layout,
                                        const ActivationOptions& options, bool time_aware) {
  std::vector<InputExtremes> seen;
  const int groups = input.options().groups;
  const int noisier_from = groups - groups / 2;
  for (int g = 0; g < groups; ++g) {
    if (input.count(g) == 0) continue;
    InputExtremes extremes = ExtremesOf(input.channel_moments(g), layout);
    extremes.weight = input.count(g) / input.total_count();
    extremes.block_size = g >= noisier_from ? options.block_early : options.block_late;
    seen.push_back(std::move(extremes));
  }
  if (time_aware || seen.empty()) return seen;
  InputExtremes all = Union(seen);
  all.weight = 1;
  all.block_size = layout.channels;
  return {std::move(all)};
}

std::vector<std::vector<float>> MagnitudesOf(const std::vector<InputExtremes>& groups) {
  std::vector<std::vector<float>> magnitudes;
  magnitudes.reserve(groups.size());
  for (const InputExtremes& group : groups) {
    std::vector<float>& largest = magnitudes.emplace_back();
    for (std::size_t c = 0; c < group.min.size(); ++c) largest.push_back(std::max(-group.min[c], group.max[c]));
  }
  return magnitudes;
}

void AddMagnitudes(const AlignedVector<float>& weight, const InputLayout& layout, std::vector<float>& largest) {
  const auto cols = static_cast<std::size_t>(layout.Columns());
  const auto taps = static_cast<std::size_t>(layout.taps);
  for (std::size_t i = 0; i < weight.size(); ++i) {
    float& of_channel = largest[i % cols / taps];
    of_channel = std::max(of_channel, std::abs(weight[i]));
  }
}

// E[x^2] of each column.
std::vector<float> EnergiesOf(const InputStatistics& input) {
  std::vector<double> sums(static_cast<std::size_t>(input.channels()));
  for (int g = 0; g < input.options().groups; ++g) {
    if (input.count(g) == 0) continue;
    const std::vector<Moments>& columns = input.channel_moments(g);
    for (std::size_t c = 0; c < sums.size(); ++c) {
      sums[c] += columns[c].m2 + columns[c].count * columns[c].mean * columns[c].mean;
    }
  }
  std::vector<float> energies;
  energies.reserve(sums.size());
  for (const double sum : sums) energies.push_back(static_cast<float>(sum / std::max(input.total_count(), 1.0)));
  return energies;
}

bool AllOnes(const std::vector<float>& scales) {
  return std::all_of(scales.begin(), scales.end(), [](float scale) { return scale == 1.0F; });
}

std::vector<float> ByColumn(const std::vector<float>& scales, const InputLayout& layout) {
  return AllOnes(scales) ? std::vector<float>() : SpreadOverTaps(scales, layout.taps);
}

}  // namespace

EqualizationScales MakeEqualizationScales(std::span<const LoadWeight> weights, const InputStatistics& input,
                                          const InputLayout& layout, const ActivationOptions& activations,
                                          bool time_aware) {
  const std::vector<InputExtremes> groups = SeenExtremes(input, layout, activations, time_aware);
  if (groups.empty()) return {};
  ChannelMagnitudes magnitudes{MagnitudesOf(groups), std::vector<float>(static_cast<std::size_t>(layout.channels))};
  for (const LoadWeight& load : weights) AddMagnitudes(load().values, layout, magnitudes.weight);
  const std::vector<double> grid = MigrationGrid();
  std::vector<std::vector<float>> scales;
  scales.reserve(grid.size());
  for (const double alpha : grid) scales.push_back(MigrationScales(magnitudes, alpha));
  const std::vector<float> energies = EnergiesOf(input);
  std::vector<double> noise(grid.size());
  for (const LoadWeight& load : weights) {
    const ReadingWeight weight = load();
    const auto rows = static_cast<std::int64_t>(weight.values.size()) / layout.Columns();
    const LayerNoise layer{{weight.values.data(), rows, layout.Columns()},
                           layout.taps,
                           energies,
                           weight.group_size,
                           weight.bits,
                           activations.bits == 0 ? kActivationBits : activations.bits};
    for (std::size_t i = 0; i < grid.size(); ++i) noise[i] += ExpectedNoise(layer, groups, scales[i]);
  }
  const auto best = static_cast<std::size_t>(std::min_element(noise.begin(), noise.end()) - noise.begin());
  return {ByColumn(BalanceScales(magnitudes), layout), ByColumn(scales[best], layout), grid[best]};
}

}  // namespace arrow_quant
