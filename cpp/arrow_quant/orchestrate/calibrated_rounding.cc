#include "arrow_quant/orchestrate/calibrated_rounding.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <limits>
#include <optional>
#include <utility>

#include "arrow_quant/quantize/base_quantizer.h"
#include "arrow_quant/quantize/rounding/target_correction.h"
#include "arrow_quant/quantize/spatial/input_transform.h"

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

// Runs `measure(weight rows, quantized rows, input, time group)` for every input and time group with held-out rows.
template <typename Measure>
OutputQuality QualityByGroups(MatrixView<const float> weight, MatrixView<const float> quantized,
                              const LayerInputs& inputs, const Measure& measure) {
  OutputQuality quality;
  const int groups = inputs.front()->options().groups;
  quality.groups.resize(static_cast<std::size_t>(groups));
  quality.rows.resize(static_cast<std::size_t>(groups));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (int g = 0; g < groups; ++g) {
      const std::int64_t rows = inputs[i]->held_out_count(g);
      if (rows == 0) continue;
      const auto at = static_cast<std::size_t>(g);
      Add(measure(RowsOf(weight, inputs, i), RowsOf(quantized, inputs, i), *inputs[i], g), quality.groups[at]);
      quality.rows[at] += rows;
      quality.held_out = true;
    }
  }
  for (const OutputSums& sums : quality.groups) Add(sums, quality.total);
  return quality;
}

// The float model's rows are known wherever rows are held out.
bool HaveReference(const LayerInputs& inputs) {
  bool any = false;
  for (const auto& input : inputs) {
    for (int g = 0; g < input->options().groups; ++g) {
      if (input->held_out(g).size() != input->held_out_reference(g).size()) return false;
      any = any || input->held_out_count(g) > 0;
    }
  }
  return any;
}

// One layer, with what all candidates share.
class LayerRounding {
 public:
  LayerRounding(MatrixView<const float> weight, const LayerInputs& inputs, const std::vector<double>& time_weights,
                const RoundingOptions& options, const std::stop_token& stop)
      : weight_(weight), inputs_(inputs), time_weights_(time_weights), options_(options), stop_(stop) {
    moments_.reserve(inputs.size());
    for (const auto& input : inputs) moments_.push_back(input->SecondMoment(time_weights));
    if (!HaveReference(inputs)) return;
    inherited_ = FloatError(weight_);
    Correct();
  }

  bool has_target() const { return !corrected_.empty(); }

  CalibratedRounding Round(const RoundingCandidate& candidate, bool corrected, int rounds) const {
    RoundingOptions options = options_;
    options.grid = candidate.grid;
    options.column_scales = candidate.equalization == EqualizationKind::kColumns;
    options.rounds = rounds;
    const MatrixView<const float> target = corrected ? Corrected() : weight_;
    CalibratedRounding result;
    result.way = candidate;
    std::vector<QuantizedMatrix> parts;
    parts.reserve(inputs_.size());
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      RoundingResult part = RoundPart(RowsOf(target, inputs_, i), i, candidate, options);
      result.dampening = std::max(result.dampening, part.dampening);
      result.diagonal = result.diagonal || part.diagonal;
      parts.push_back(std::move(part.matrix));
    }
    result.matrix = Stack(std::move(parts));
    Measure(target, corrected, result);
    return result;
  }

  // What was rounded in place of the weight; to be called last.
  AlignedVector<float> TakeCorrected() { return std::move(corrected_); }

  // What candidates are compared by.
  double Error(const CalibratedRounding& rounded) const {
    return rounded.target.error >= 0 ? rounded.target.error : RelativeError(rounded.quality, time_weights_);
  }

 private:
  RoundingResult RoundPart(MatrixView<const float> target, std::size_t input, const RoundingCandidate& candidate,
                           RoundingOptions options) const {
    if (!candidate.rotation_seed) {
      options.scales = candidate.scales;
      return RoundWithHessian(target, moments_[input].data(), options, stop_);
    }
    const InputTransform transform{candidate.scales, {}, candidate.rotation_seed};
    AlignedVector<float> turned(target.data, target.data + target.size());
    TransformWeight(transform, {turned.data(), target.rows, target.cols});
    const AlignedVector<float> moment =
        TransformedMoment(transform, {moments_[input].data(), target.cols, target.cols});
    RoundingResult result = RoundWithHessian({turned.data(), target.rows, target.cols}, moment.data(), options, stop_);
    result.matrix.column_scales = candidate.scales;
    result.matrix.rotation_seed = candidate.rotation_seed;
    return result;
  }

  MatrixView<const float> Corrected() const { return {corrected_.data(), weight_.rows, weight_.cols}; }

  void Correct() {
    AlignedVector<float> all;
    all.reserve(static_cast<std::size_t>(weight_.size()));
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const AlignedVector<float> drift = inputs_[i]->Drift(time_weights_);
      if (drift.empty()) return;
      const AlignedVector<float> part = CorrectTarget(RowsOf(weight_, inputs_, i), moments_[i].data(), drift.data(),
                                                      options_.dampening, options_.num_threads);
      if (part.empty()) return;
      all.insert(all.end(), part.begin(), part.end());
    }
    corrected_ = std::move(all);
  }

  void Measure(MatrixView<const float> target, bool corrected, CalibratedRounding& result) const {
    AlignedVector<float> values(static_cast<std::size_t>(weight_.size()));
    DequantizeRows(result.matrix, 0, weight_.rows, values.data());
    const MatrixView<const float> quantized(values.data(), weight_.rows, weight_.cols);
    result.sums = Kernels().error_sums(weight_.data, values.data(), values.size());
    result.quality = MeasureQuality(target, quantized, inputs_, options_.num_threads);
    if (inherited_ >= 0) result.target = {corrected, inherited_, FloatError(quantized)};
  }

  // Against the outputs of the float model.
  double FloatError(MatrixView<const float> quantized) const {
    return RelativeError(MeasureFloatQuality(weight_, quantized, inputs_, options_.num_threads), time_weights_);
  }

  MatrixView<const float> weight_;
  const LayerInputs& inputs_;
  const std::vector<double>& time_weights_;
  const RoundingOptions& options_;
  const std::stop_token& stop_;
  std::vector<AlignedVector<float>> moments_;
  AlignedVector<float> corrected_;
  double inherited_ = -1;  // of the weight itself; negative: the float model's rows are not known
};

// Rotated twins of those whose scales are known beforehand. Where rotation is demanded, only the plain way is left
// beside them, for a step back.
void AddRotations(Use use, std::uint64_t seed, std::vector<RoundingCandidate>& ways) {
  if (use == Use::kNever) return;
  std::vector<RoundingCandidate> rotated;
  for (const RoundingCandidate& way : ways) {
    if (way.equalization == EqualizationKind::kColumns) continue;
    rotated.push_back(way);
    rotated.back().rotation_seed = seed;
  }
  if (use == Use::kAlways) ways.resize(1);
  ways.insert(ways.end(), std::make_move_iterator(rotated.begin()), std::make_move_iterator(rotated.end()));
}

// Errors of one way to round before refinement.
struct Compared {
  double weight = 0;  // by the weight alone
  double total = 0;   // with the activations, where they count
};

// Mean over time groups of the relative output error: noise in a quiet group costs a sample as much as in a loud one.
double GroupError(const OutputQuality& quality) {
  double sum = 0;
  double count = 0;
  for (const OutputSums& group : quality.groups) {
    if (!(group.ww > 0)) continue;
    sum += group.ee / group.ww;
    ++count;
  }
  return count > 0 ? sum / count : RelativeError(quality, {});
}

// The least total, among those whose weights are nearly as good as the best where these come first.
std::size_t BestOf(const std::vector<Compared>& ways, bool weights_first) {
  const Compared& first = *std::min_element(ways.begin(), ways.end(),
                                            [](const Compared& a, const Compared& b) { return a.weight < b.weight; });
  const double allowed = first.weight + kWeightErrorSlack * first.total;
  std::size_t best = ways.size();
  for (std::size_t i = 0; i < ways.size(); ++i) {
    if (weights_first && ways[i].weight > allowed) continue;
    if (best == ways.size() || ways[i].total < ways[best].total) best = i;
  }
  return best;
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
  OutputQuality quality = QualityByGroups(
      weight, quantized, inputs,
      [&](MatrixView<const float> w, MatrixView<const float> q, const InputStatistics& input, int g) {
        return MeasureOutputOnRows(w, q, input.held_out(g).data(), input.held_out_count(g), num_threads);
      });
  if (quality.held_out) return quality;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const AlignedVector<float> hessian = inputs[i]->SecondMoment();
    Add(MeasureOutput(RowsOf(weight, inputs, i), RowsOf(quantized, inputs, i), hessian.data(), num_threads),
        quality.total);
  }
  return quality;
}

OutputQuality MeasureFloatQuality(MatrixView<const float> weight, MatrixView<const float> quantized,
                                  const LayerInputs& inputs, int num_threads) {
  if (!HaveReference(inputs)) return {};
  return QualityByGroups(
      weight, quantized, inputs,
      [&](MatrixView<const float> w, MatrixView<const float> q, const InputStatistics& input, int g) {
        return MeasureOutputAgainst(w, q, input.held_out_reference(g).data(), input.held_out(g).data(),
                                    input.held_out_count(g), num_threads);
      });
}

std::vector<RoundingCandidate> CandidatesOf(const Strategy& strategy, int bits, const LayerInputs& inputs,
                                            const EqualizationScales& scales, std::uint64_t rotation_seed) {
  const SpatialChoice& wanted = strategy.transforms;
  std::vector<RoundingCandidate> ways = {{}};
  if (inputs.size() == 1) {
    if (wanted.columns) ways.push_back({.equalization = EqualizationKind::kColumns});
    if (wanted.balance && !scales.balance.empty()) {
      ways.push_back({.equalization = EqualizationKind::kBalance, .scales = scales.balance});
    }
    if (wanted.grid && !scales.grid.empty() && scales.grid != scales.balance) {
      ways.push_back({.equalization = EqualizationKind::kGrid, .scales = scales.grid, .alpha = scales.alpha});
    }
    AddRotations(wanted.rotation, rotation_seed, ways);
  }
  std::vector<RoundingCandidate> candidates;
  for (const GridKind grid : AllowedGrids(strategy, bits)) {
    for (RoundingCandidate way : ways) {
      way.grid = grid;
      candidates.push_back(std::move(way));
    }
  }
  return candidates;
}

RoundingOptions RoundingOptionsOf(const ModelOptions& options, int bits) {
  return {.bits = bits,
          .group_size = options.group_size,
          .order = options.order,
          .rounds = options.rounds,
          .dampening = options.dampening,
          .num_threads = options.num_threads};
}

CalibratedRounding RoundCalibrated(MatrixView<const float> weight, const LayerInputs& inputs,
                                   std::span<const RoundingCandidate> candidates,
                                   const std::vector<double>& time_weights, const RoundingOptions& options,
                                   const std::stop_token& stop, const ActivationJudge& judge) {
  LayerRounding layer(weight, inputs, time_weights, options, stop);
  const std::size_t targets = layer.has_target() ? 2 : 1;
  const std::size_t ways = candidates.size() * targets;
  std::vector<Compared> compared;
  double plain_error = -1;
  for (std::size_t i = 0; ways > 1 && i < ways; ++i) {
    const RoundingCandidate& candidate = candidates[i / targets];
    const CalibratedRounding rounded = layer.Round(candidate, i % targets == 1, 0);
    const double error = layer.Error(rounded);
    const double by_group = layer.has_target() ? error : GroupError(rounded.quality);
    compared.push_back({error, judge.cost ? by_group + judge.cost(rounded.matrix) : error});
    if (candidate.plain() && (plain_error < 0 || compared[i].total < plain_error)) plain_error = compared[i].total;
  }
  const std::size_t best = compared.empty() ? 0 : BestOf(compared, judge.weights_first);
  const bool corrected = best % targets == 1;
  CalibratedRounding rounded = layer.Round(candidates[best / targets], corrected, options.rounds);
  if (corrected) rounded.corrected = layer.TakeCorrected();
  if (!compared.empty()) rounded.compared_error = compared[best].total;
  rounded.plain_error = plain_error;
  return rounded;
}

}  // namespace arrow_quant
