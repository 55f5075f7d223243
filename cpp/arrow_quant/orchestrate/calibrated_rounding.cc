#include "arrow_quant/orchestrate/calibrated_rounding.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <optional>
#include <utility>

#include "arrow_quant/quantize/base_quantizer.h"

namespace arrow_quant {
namespace {

void Add(const OutputSums& part, OutputSums& total) {
  total.ww += part.ww;
  total.wq += part.wq;
  total.qq += part.qq;
  total.ee += part.ee;
}

// Rows of the weight that read input `i` of `inputs`.
MatrixView<const float> RowsOf(MatrixView<const float> matrix, const LayerInputs& inputs, std::size_t i) {
  const std::int64_t count = matrix.rows / static_cast<std::int64_t>(inputs.size());
  return matrix.Rows(static_cast<std::int64_t>(i) * count, count);
}

// Matrices of one shape but for their rows, one under the other.
QuantizedMatrix Stack(std::vector<QuantizedMatrix> parts) {
  if (parts.size() == 1) return std::move(parts.front());
  QuantizedMatrix whole;
  whole.cols = parts.front().cols;
  whole.bits = parts.front().bits;
  whole.group_size = parts.front().group_size;
  whole.grid = parts.front().grid;
  AlignedVector<std::uint8_t> codes;
  for (const QuantizedMatrix& part : parts) {
    const auto begin = codes.size();
    const auto count = static_cast<std::size_t>(part.rows * part.cols);
    codes.resize(begin + count);
    Kernels().unpack(part.codes.data(), count, part.bits, codes.data() + begin);
    whole.rows += part.rows;
    whole.scales.insert(whole.scales.end(), part.scales.begin(), part.scales.end());
    whole.zero_points.insert(whole.zero_points.end(), part.zero_points.begin(), part.zero_points.end());
    whole.residual_scales.insert(whole.residual_scales.end(), part.residual_scales.begin(), part.residual_scales.end());
  }
  whole.codes.resize(static_cast<std::size_t>(PackedBytes(static_cast<std::int64_t>(codes.size()), whole.bits)));
  Kernels().pack(codes.data(), codes.size(), whole.bits, whole.codes.data());
  return whole;
}

CalibratedRounding RoundOnGrid(MatrixView<const float> weight, const LayerInputs& inputs,
                               const std::vector<double>& time_weights, const RoundingOptions& options,
                               const std::stop_token& stop) {
  CalibratedRounding result;
  std::vector<QuantizedMatrix> parts;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const AlignedVector<float> hessian = inputs[i]->SecondMoment(time_weights);
    RoundingResult part = RoundWithHessian(RowsOf(weight, inputs, i), hessian.data(), options, stop);
    result.dampening = std::max(result.dampening, part.dampening);
    result.diagonal = result.diagonal || part.diagonal;
    parts.push_back(std::move(part.matrix));
  }
  result.matrix = Stack(std::move(parts));
  AlignedVector<float> values(static_cast<std::size_t>(weight.rows * weight.cols));
  DequantizeRows(result.matrix, 0, weight.rows, values.data());
  result.sums = Kernels().error_sums(weight.data, values.data(), values.size());
  result.quality = MeasureQuality(weight, {values.data(), weight.rows, weight.cols}, inputs, options.num_threads);
  return result;
}

double LargestActivation(const InputStatistics& input) {
  float largest = 0;
  for (int g = 0; g < input.options().groups; ++g) {
    for (const Moments& m : input.channel_moments(g)) largest = std::max({largest, -m.min, m.max});
  }
  return static_cast<double>(largest);
}

}  // namespace

double RelativeError(const OutputQuality& quality, const std::vector<double>& time_weights) {
  OutputSums sums = quality.total;
  if (quality.held_out && time_weights.size() == quality.groups.size()) {
    sums = {};
    for (std::size_t g = 0; g < time_weights.size(); ++g) {
      sums.ww += time_weights[g] * quality.groups[g].ww;
      sums.ee += time_weights[g] * quality.groups[g].ee;
    }
  }
  return sums.ww > 0 ? sums.ee / sums.ww : sums.ee > 0 ? 1 : 0;
}

std::string Unfit(const LayerInputs& inputs, std::int64_t rows, std::int64_t cols) {
  if (inputs.empty()) return "no activations: the samples never reached this layer";
  if (rows % static_cast<std::int64_t>(inputs.size()) != 0) {
    return "activations of " + std::to_string(inputs.size()) + " groups do not divide " + std::to_string(rows) +
           " output channels";
  }
  for (const auto& input : inputs) {
    if (input->channels() != cols) {
      return "activations have " + std::to_string(input->channels()) + " channels, the layer " + std::to_string(cols);
    }
    const double largest = LargestActivation(*input);
    if (largest == 0) return "activations are all zero";
    if (largest * largest * input->total_count() > static_cast<double>(std::numeric_limits<float>::max())) {
      char text[96];
      std::snprintf(text, sizeof(text), "activations of up to %.3g overflow their second moment", largest);
      return text;
    }
  }
  return {};
}

OutputQuality MeasureQuality(MatrixView<const float> weight, MatrixView<const float> quantized,
                             const LayerInputs& inputs, int num_threads) {
  OutputQuality quality;
  const int groups = inputs.front()->options().groups;
  quality.groups.resize(static_cast<std::size_t>(groups));
  quality.rows.resize(static_cast<std::size_t>(groups));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (int g = 0; g < groups; ++g) {
      const std::int64_t rows = inputs[i]->held_out_count(g);
      if (rows == 0) continue;
      const auto at = static_cast<std::size_t>(g);
      Add(MeasureOutputOnRows(RowsOf(weight, inputs, i), RowsOf(quantized, inputs, i), inputs[i]->held_out(g).data(),
                              rows, num_threads),
          quality.groups[at]);
      quality.rows[at] += rows;
      quality.held_out = true;
    }
  }
  for (const OutputSums& sums : quality.groups) Add(sums, quality.total);
  if (quality.held_out) return quality;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const AlignedVector<float> hessian = inputs[i]->SecondMoment();
    Add(MeasureOutput(RowsOf(weight, inputs, i), RowsOf(quantized, inputs, i), hessian.data(), num_threads),
        quality.total);
  }
  return quality;
}

CalibratedRounding RoundCalibrated(MatrixView<const float> weight, const LayerInputs& inputs,
                                   std::span<const RoundingCandidate> candidates,
                                   const std::vector<double>& time_weights, const RoundingOptions& options,
                                   const std::stop_token& stop) {
  const auto with = [&](const RoundingCandidate& candidate, int rounds) {
    RoundingOptions chosen = options;
    chosen.grid = candidate.grid;
    chosen.column_scales = candidate.column_scales;
    chosen.rounds = rounds;
    return chosen;
  };
  std::size_t best = 0;
  double best_error = 0;
  for (std::size_t i = 0; candidates.size() > 1 && i < candidates.size(); ++i) {
    const CalibratedRounding tried = RoundOnGrid(weight, inputs, time_weights, with(candidates[i], 0), stop);
    const double error = RelativeError(tried.quality, time_weights);
    if (i == 0 || error < best_error) best = i, best_error = error;
  }
  return RoundOnGrid(weight, inputs, time_weights, with(candidates[best], options.rounds), stop);
}

}  // namespace arrow_quant
