#include "arrow_quant/quantize/spatial/noise_model.h"

#include <algorithm>

namespace arrow_quant {
namespace {

constexpr double kStepVariance = 12;
constexpr std::int64_t kLargestRows = 256;

// Every `step`-th row of the weight.
struct RowSample {
  explicit RowSample(std::int64_t rows) : step((rows + kLargestRows - 1) / kLargestRows), all(rows) {
    step = std::max<std::int64_t>(step, 1);
  }
  double factor() const {
    const std::int64_t taken = (all + step - 1) / step;
    return static_cast<double>(all) / static_cast<double>(taken);
  }
  std::int64_t step;
  std::int64_t all;
};

// Squared norms of the columns of W / e, added up over the taps of each channel.
std::vector<double> ChannelEnergies(const LayerNoise& layer, std::span<const float> scales) {
  std::vector<double> energies(scales.size());
  const RowSample sample(layer.weight.rows);
  for (std::int64_t r = 0; r < layer.weight.rows; r += sample.step) {
    const float* row = layer.weight.Row(r);
    for (std::size_t c = 0; c < energies.size(); ++c) {
      for (std::int64_t t = 0; t < layer.taps; ++t, ++row) {
        energies[c] += static_cast<double>(*row) * static_cast<double>(*row);
      }
    }
  }
  for (std::size_t c = 0; c < energies.size(); ++c) {
    const auto scale = static_cast<double>(scales[c]);
    energies[c] *= sample.factor() / (scale * scale);
  }
  return energies;
}

double InputNoise(const InputExtremes& input, int bits, std::span<const double> energies,
                  std::span<const float> scales) {
  double noise = 0;
  const auto size = static_cast<std::size_t>(std::max<std::int64_t>(input.block_size, 1));
  for (std::size_t begin = 0; begin < scales.size(); begin += size) {
    const std::size_t end = std::min(begin + size, scales.size());
    float low = 0;
    float high = 0;
    double energy = 0;
    for (std::size_t c = begin; c < end; ++c) {
      low = std::min(low, input.min[c] * scales[c]);
      high = std::max(high, input.max[c] * scales[c]);
      energy += energies[c];
    }
    const double step = static_cast<double>(high - low) / ((1 << bits) - 1);
    noise += step * step / kStepVariance * energy;
  }
  return noise;
}

double WeightNoise(const LayerNoise& layer, std::span<const float> scales) {
  const std::int64_t cols = layer.weight.cols;
  const std::int64_t size = layer.group_size == -1 ? cols : layer.group_size;
  const double steps = (1 << layer.weight_bits) - 1;
  const RowSample sample(layer.weight.rows);
  double noise = 0;
  for (std::int64_t begin = 0; begin < cols; begin += size) {
    const std::int64_t end = std::min(begin + size, cols);
    double energy = 0;
    for (std::int64_t c = begin; c < end; ++c) {
      const auto scale = static_cast<double>(scales[static_cast<std::size_t>(c / layer.taps)]);
      energy += scale * scale * static_cast<double>(layer.input_energy[static_cast<std::size_t>(c)]);
    }
    double squares = 0;
    for (std::int64_t r = 0; r < layer.weight.rows; r += sample.step) {
      const float* row = layer.weight.Row(r);
      float low = 0;
      float high = 0;
      for (std::int64_t c = begin; c < end; ++c) {
        const float value = row[c] / scales[static_cast<std::size_t>(c / layer.taps)];
        low = std::min(low, value);
        high = std::max(high, value);
      }
      const double step = static_cast<double>(high - low) / steps;
      squares += step * step;
    }
    noise += squares * sample.factor() / kStepVariance * energy;
  }
  return noise;
}

}  // namespace

double ExpectedNoise(const LayerNoise& layer, std::span<const InputExtremes> inputs, std::span<const float> scales) {
  const std::vector<double> energies = ChannelEnergies(layer, scales);
  double noise = WeightNoise(layer, scales);
  for (const InputExtremes& input : inputs)
    noise += input.weight * InputNoise(input, layer.activation_bits, energies, scales);
  return noise;
}

}  // namespace arrow_quant
