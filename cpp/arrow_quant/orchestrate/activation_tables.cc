#include "arrow_quant/orchestrate/activation_tables.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "arrow_quant/calibrate/time_segments.h"
#include "arrow_quant/quantize/time_aware/activation_ranges.h"
#include "arrow_quant/quantize/time_aware/range_transitions.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::ordered_json;

// A rotated input's range is not known from its columns' and is taken from the rows that fit, widened by this part:
// fewer rows than there were have seen less of it.
constexpr float kRotatedMargin = 0.25F;

void TransformRows(const InputTransform& transform, std::int64_t columns, AlignedVector<float>& rows) {
  TransformInputs(transform, {rows.data(), static_cast<std::int64_t>(rows.size()) / columns, columns});
}

// Without rows no value of R x is larger than the norm of x.
void BoundRotated(InputSample& sample) {
  double squares = 0;
  for (std::size_t c = 0; c < sample.min.size(); ++c) {
    const auto largest = static_cast<double>(std::max(-sample.min[c], sample.max[c]));
    squares += largest * largest;
  }
  sample.min.assign(sample.min.size(), -static_cast<float>(std::sqrt(squares)));
  sample.max.assign(sample.max.size(), static_cast<float>(std::sqrt(squares)));
}

void SpanRows(InputSample& sample) {
  const std::size_t columns = sample.min.size();
  if (columns == 0) return;
  if (sample.fit_rows.empty()) {
    BoundRotated(sample);
    return;
  }
  std::fill(sample.min.begin(), sample.min.end(), 0.0F);
  std::fill(sample.max.begin(), sample.max.end(), 0.0F);
  for (std::size_t i = 0; i < sample.fit_rows.size(); ++i) {
    const float value = sample.fit_rows[i] * (1 + kRotatedMargin);
    sample.min[i % columns] = std::min(sample.min[i % columns], value);
    sample.max[i % columns] = std::max(sample.max[i % columns], value);
  }
}

// As if the layer had seen transformed inputs.
void Transform(const InputTransform& transform, std::int64_t columns, InputSample& sample) {
  if (transform.empty()) return;
  TransformRows(transform, columns, sample.fit_rows);
  TransformRows(transform, columns, sample.judge_rows);
  for (std::vector<float>* extremes : {&sample.min, &sample.max}) {
    for (std::size_t c = 0; c < extremes->size(); ++c) {
      if (!transform.shift.empty()) (*extremes)[c] -= transform.shift[c];
      if (!transform.scales.empty()) (*extremes)[c] *= transform.scales[c];
    }
  }
  if (transform.rotation_seed) SpanRows(sample);
}

GroupSample SampleOf(const LayerInputs& inputs, const InputTransform& transform, int group) {
  GroupSample samples;
  for (const auto& input : inputs) {
    InputSample sample;
    for (const Moments& moments : input->channel_moments(group)) {
      sample.min.push_back(moments.min);
      sample.max.push_back(moments.max);
    }
    sample.count = input->count(group);
    SplitHeldOut(input->held_out(group), input->channels(), sample.fit_rows, sample.judge_rows);
    Transform(transform, input->channels(), sample);
    samples.push_back(std::move(sample));
  }
  return samples;
}

bool Seen(const GroupSample& sample) {
  return std::all_of(sample.begin(), sample.end(), [](const InputSample& s) { return !s.min.empty(); });
}

// A group that no row fell into takes what its nearest neighbour saw.
void FillUnseen(std::vector<GroupSample>& samples) {
  std::vector<std::size_t> seen;
  for (std::size_t g = 0; g < samples.size(); ++g) {
    if (Seen(samples[g])) seen.push_back(g);
  }
  for (std::size_t g = 0; g < samples.size() && !seen.empty(); ++g) {
    if (Seen(samples[g])) continue;
    const auto distance = [g](std::size_t a) { return a > g ? a - g : g - a; };
    samples[g] = samples[*std::min_element(seen.begin(), seen.end(),
                                           [&](std::size_t a, std::size_t b) { return distance(a) < distance(b); })];
    for (InputSample& sample : samples[g]) sample.count = 0;
  }
}

TimeGroups GroupsFor(const LayerInputs& inputs, const TimeGroups& seen, const ActivationOptions& options,
                     bool time_aware) {
  const int count = time_aware ? options.time_groups : 1;
  if (options.grouping != "auto" || count == 1) return CoarserUniform(seen, count);
  std::map<double, Moments> timesteps;
  for (const auto& input : inputs) {
    for (const auto& [time, moments] : input->timesteps()) timesteps[time].Merge(moments);
  }
  return SegmentTimes(timesteps, seen, count);
}

std::vector<GroupSample> SamplesIn(const TimeGroups& groups, const TimeGroups& seen, const LayerInputs& inputs,
                                   const InputTransform& transform) {
  std::vector<std::vector<GroupSample>> members(static_cast<std::size_t>(groups.size()));
  for (int g = 0; g < seen.size(); ++g) {
    members[static_cast<std::size_t>(groups.Of(seen.boundaries()[static_cast<std::size_t>(g)]))].push_back(
        SampleOf(inputs, transform, g));
  }
  std::vector<GroupSample> samples;
  samples.reserve(members.size());
  for (const auto& member : members) samples.push_back(MergeSamples(member));
  FillUnseen(samples);
  return samples;
}

std::vector<RangeMethod> MethodsOf(const std::string& range) {
  if (range == "min_max") return {RangeMethod::kMinMax};
  if (range == "percentile") return {RangeMethod::kPercentile};
  if (range == "mse") return {RangeMethod::kMse};
  return {RangeMethod::kMinMax, RangeMethod::kPercentile, RangeMethod::kMse};
}

// Ranges of all groups, and what they cost on held-out rows.
struct Candidate {
  ActivationTable table;
  std::vector<std::string> methods;
  double error = 0;            // over all rows seen
  std::vector<double> errors;  // of a row, in each time group of the samples
};

double CountOf(const GroupSample& sample) {
  double count = 0;
  for (const InputSample& input : sample) count += input.count;
  return count;
}

void AddError(const GroupSample& sample, double error, Candidate& candidate) {
  candidate.error += CountOf(sample) * error;
  candidate.errors.push_back(error);
}

void Append(RangeChoice choice, Candidate& candidate) {
  ActivationTable& table = candidate.table;
  table.block_sizes.push_back(choice.ranges.block_size);
  table.scales.insert(table.scales.end(), choice.ranges.scales.begin(), choice.ranges.scales.end());
  table.zero_points.insert(table.zero_points.end(), choice.ranges.zero_points.begin(), choice.ranges.zero_points.end());
  candidate.methods.emplace_back(RangeMethodName(choice.method));
}

Candidate PerGroup(const std::vector<GroupSample>& samples, const TimeGroups& groups, const InputLayout& layout,
                   const ActivationOptions& options, MatrixView<const float> weight) {
  Candidate candidate;
  candidate.table.layout = layout;
  candidate.table.boundaries = groups.boundaries();
  const std::vector<RangeMethod> methods = MethodsOf(options.range);
  const int noisier_from = groups.size() - groups.size() / 2;
  for (int g = 0; g < groups.size(); ++g) {
    const std::int64_t block = g >= noisier_from ? options.block_early : options.block_late;
    const GroupSample& sample = samples[static_cast<std::size_t>(g)];
    RangeChoice choice = ChooseRanges(methods, sample, layout, std::min(block, layout.channels), weight);
    AddError(sample, choice.error, candidate);
    Append(std::move(choice), candidate);
  }
  return candidate;
}

// One range for all times and channels.
Candidate Shared(const std::vector<GroupSample>& samples, const TimeGroups& groups, const InputLayout& layout,
                 const ActivationOptions& options, MatrixView<const float> weight) {
  Candidate candidate;
  candidate.table.layout = layout;
  candidate.table.boundaries = {groups.boundaries().front(), groups.boundaries().back()};
  RangeChoice choice = ChooseRanges(MethodsOf(options.range), MergeSamples(samples), layout, layout.channels, weight);
  for (const GroupSample& sample : samples) {
    AddError(sample, OutputErrorOf(choice.ranges, sample, layout, weight), candidate);
  }
  Append(std::move(choice), candidate);
  return candidate;
}

std::string WorseThanShared(double error, double shared, double energy) {
  char text[160];
  std::snprintf(text, sizeof(text),
                "relative output error %.3g on held-out rows with ranges per time group, %.3g with one range",
                error / energy, shared / energy);
  return text;
}

void ScoreJumps(const ThermodynamicValidation& options, const ActivationTable& table, ActivationReport& report) {
  if (!options.enabled) return;
  const std::vector<double> jumps = RangeJumps(table);
  double sum = 0;
  for (const double jump : jumps) {
    sum += jump;
    if (jump > options.smoothness_threshold) ++report.jumps;
  }
  report.smoothness = 1 - sum / static_cast<double>(std::max<std::size_t>(jumps.size(), 1));
}

Interpolation InterpolationFromName(const std::string& name) {
  return name == "cubic" ? Interpolation::kCubic : name == "sigmoid" ? Interpolation::kSigmoid : Interpolation::kLinear;
}

JumpPenalty PenaltyOf(const TransitionOptimization& options) {
  return {.markov_weight = options.markov_weight,
          .entropy_weight = options.entropy_weight,
          .learning_rate = options.learning_rate,
          .max_iterations = options.max_iterations,
          .convergence_threshold = options.convergence_threshold,
          .schedule = options.beta_schedule == "cosine" ? BetaSchedule::kCosine : BetaSchedule::kLinear};
}

// The ranges of one group of a table.
GroupRanges RangesOf(const ActivationTable& table, std::size_t group, std::size_t begin) {
  const std::int64_t size = table.block_sizes[group];
  const auto count = static_cast<std::size_t>(table.layout.inputs * table.layout.Blocks(size));
  const auto part = [&](const std::vector<float>& values) {
    return std::vector<float>(values.begin() + static_cast<std::ptrdiff_t>(begin),
                              values.begin() + static_cast<std::ptrdiff_t>(begin + count));
  };
  return {size, part(table.scales), part(table.zero_points)};
}

// Jumps between groups damped, and what that costs on held-out rows.
void DampJumps(const TransitionOptimization& options, const std::vector<GroupSample>& samples,
               MatrixView<const float> weight, Candidate& candidate) {
  if (!options.enabled) return;
  candidate.table = Stretched(candidate.table, JumpPenaltyFactors(candidate.table, PenaltyOf(options)));
  candidate.error = 0;
  candidate.errors.clear();
  std::size_t at = 0;
  for (std::size_t g = 0; g < samples.size(); ++g) {
    const GroupRanges ranges = RangesOf(candidate.table, g, at);
    AddError(samples[g], OutputErrorOf(ranges, samples[g], candidate.table.layout, weight), candidate);
    at += ranges.scales.size();
  }
}

// Mean over time groups of what errors are to energies; 0 where no group has any.
double MeanOfGroups(const std::vector<double>& errors, const std::vector<double>& energies) {
  double sum = 0;
  double count = 0;
  for (std::size_t g = 0; g < errors.size(); ++g) {
    if (!(energies[g] > 0)) continue;
    sum += errors[g] / energies[g];
    ++count;
  }
  return count > 0 ? sum / count : 0;
}

// Energy of the outputs: over all rows seen, and of a row in each time group.
struct OutputEnergies {
  double total = 0;
  std::vector<double> groups;
};

ActivationOutcome Finish(Candidate chosen, std::string method, double shared_error, const OutputEnergies& energies,
                         const ThermodynamicConfig& options, MatrixView<const float> weight) {
  ActivationOutcome outcome;
  outcome.group_error = MeanOfGroups(chosen.errors, energies.groups);
  outcome.report.method = std::move(method);
  outcome.report.ranges = std::move(chosen.methods);
  if (energies.total > 0) {
    outcome.report.error = chosen.error / energies.total;
    outcome.report.shared_error = shared_error / energies.total;
  }
  ScoreJumps(options.validation, chosen.table, outcome.report);
  if (options.boundary_smoothing.enabled) {
    chosen.table = SmoothBoundaries(chosen.table, options.boundary_smoothing.window_size,
                                    InterpolationFromName(options.boundary_smoothing.interpolation));
  }
  const auto values = static_cast<double>(chosen.table.scales.size() + chosen.table.zero_points.size());
  outcome.report.bits_per_weight = 32 * values / static_cast<double>(std::max<std::int64_t>(weight.size(), 1));
  outcome.table = std::move(chosen.table);
  return outcome;
}

Json TimeRange(double from, double to) {
  const bool whole = from == std::floor(from) && to == std::floor(to) && std::abs(to) < 1e15;
  if (!whole) return Json::array({from, to});
  return Json::array({static_cast<std::int64_t>(from), static_cast<std::int64_t>(to)});
}

// One scale and zero point for the union of the ranges.
std::pair<float, float> UnionOf(std::span<const float> scales, std::span<const float> zero_points) {
  float low = 0;
  float high = 0;
  for (std::size_t i = 0; i < scales.size(); ++i) {
    low = std::min(low, -zero_points[i] * scales[i]);
    high = std::max(high, (static_cast<float>(kActivationLevels) - zero_points[i]) * scales[i]);
  }
  const float scale = (high - low) / static_cast<float>(kActivationLevels);
  return {scale, -low / scale};
}

// What a shift takes from a transformed input, [columns]; empty without one.
std::vector<float> OffsetOf(const InputTransform& transform) {
  std::vector<float> offset = transform.shift;
  if (offset.empty()) return offset;
  const InputTransform rest{transform.scales, {}, transform.rotation_seed};
  TransformInputs(rest, {offset.data(), 1, static_cast<std::int64_t>(offset.size())});
  return offset;
}

// Energy of the layer's outputs, with what a shift takes from its input.
double EnergyOf(const GroupSample& sample, const std::vector<float>& offset, const InputLayout& layout,
                MatrixView<const float> weight) {
  if (offset.empty()) return OutputEnergyOf(sample, layout, weight);
  GroupSample whole(sample.size());
  for (std::size_t i = 0; i < sample.size(); ++i) {
    whole[i].judge_rows = sample[i].judge_rows;
    for (std::size_t k = 0; k < whole[i].judge_rows.size(); ++k) whole[i].judge_rows[k] += offset[k % offset.size()];
  }
  return OutputEnergyOf(whole, layout, weight);
}

ActivationOutcome ChooseTable(MatrixView<const float> weight, const LayerInputs& inputs,
                              const InputTransform& transform, const TimeGroups& seen_groups, const InputLayout& layout,
                              const ActivationOptions& options, bool time_aware) {
  const TimeGroups groups = GroupsFor(inputs, seen_groups, options, time_aware);
  const std::vector<GroupSample> samples = SamplesIn(groups, seen_groups, inputs, transform);
  const std::vector<float> offset = OffsetOf(transform);
  OutputEnergies energies;
  for (const GroupSample& sample : samples) {
    energies.groups.push_back(EnergyOf(sample, offset, layout, weight));
    energies.total += CountOf(sample) * energies.groups.back();
  }
  Candidate shared = Shared(samples, groups, layout, options, weight);
  const double shared_error = shared.error;
  if (!time_aware || options.time_groups == 1) {
    return Finish(std::move(shared), "shared", shared_error, energies, options.transitions, weight);
  }
  Candidate timed = PerGroup(samples, groups, layout, options, weight);
  DampJumps(options.transitions.transition_optimization, samples, weight, timed);
  if (!(timed.error > shared_error)) {
    return Finish(std::move(timed), "time_aware", shared_error, energies, options.transitions, weight);
  }
  const double timed_error = timed.error;
  ActivationOutcome outcome = Finish(std::move(shared), "shared", shared_error, energies, options.transitions, weight);
  outcome.fallback_cause = WorseThanShared(timed_error, shared_error, energies.total > 0 ? energies.total : 1);
  return outcome;
}

}  // namespace

InputLayout InputLayoutOf(const TensorInfo& info, const MatrixShape& matrix, std::int64_t inputs) {
  std::vector<std::int64_t> shape = info.shape;
  const auto axis = shape.begin() + matrix.quant_axis;
  std::rotate(shape.begin(), axis, axis + 1);
  const auto at = static_cast<std::size_t>(matrix.row_rank);
  const std::int64_t channels = at < shape.size() ? std::max<std::int64_t>(shape[at], 1) : 1;
  return {inputs, channels, matrix.cols / channels};
}

ActivationOutcome MakeActivationTable(MatrixView<const float> weight, const LayerInputs& inputs,
                                      const InputTransform& transform, const TimeGroups& seen_groups,
                                      const InputLayout& layout, const ActivationOptions& options, bool time_aware) {
  ActivationOutcome outcome = ChooseTable(weight, inputs, transform, seen_groups, layout, options, time_aware);
  outcome.table.shift = transform.shift;
  return outcome;
}

std::string TimeAwareJson(const ActivationTable& table) {
  Json params = Json::array();
  const auto groups = static_cast<std::size_t>(table.groups());
  const std::span scales(table.scales);
  const std::span zero_points(table.zero_points);
  std::size_t at = 0;
  for (std::size_t g = 0; g < groups; ++g) {
    const auto count = static_cast<std::size_t>(table.layout.inputs * table.layout.Blocks(table.block_sizes[g]));
    const auto [scale, zero_point] = UnionOf(scales.subspan(at, count), zero_points.subspan(at, count));
    at += count;
    params.push_back({{"time_range", TimeRange(table.boundaries[g], table.boundaries[g + 1])},
                      {"scale", scale},
                      {"zero_point", zero_point},
                      {"group_size", table.block_sizes[g]}});
  }
  return Json{{"enabled", true}, {"num_time_groups", groups}, {"time_group_params", std::move(params)}}.dump();
}

}  // namespace arrow_quant
