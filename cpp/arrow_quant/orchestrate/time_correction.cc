#include "arrow_quant/orchestrate/time_correction.h"

#include <algorithm>
#include <cstddef>

#include "arrow_quant/calibrate/time_segments.h"

namespace arrow_quant {
namespace {

// One input in the groups of `seen` that lie in group `g` of `groups`.
CorrectionSample SampleOf(const InputStatistics& input, const TimeGroups& groups, const TimeGroups& seen, int g) {
  CorrectionSample sample;
  std::vector<Moments> moments(static_cast<std::size_t>(input.channels()));
  double count = 0;
  for (int s = 0; s < seen.size(); ++s) {
    if (groups.Of(seen.boundaries()[static_cast<std::size_t>(s)]) != g) continue;
    SplitHeldOut(input.held_out(s), input.channels(), sample.fit_rows, sample.judge_rows);
    const std::vector<Moments>& part = input.channel_moments(s);
    for (std::size_t c = 0; c < part.size(); ++c) moments[c].Merge(part[c]);
    count += input.count(s);
  }
  for (std::size_t c = 0; count > 0 && c < moments.size(); ++c) {
    sample.mean.push_back(static_cast<float>(moments[c].mean));
  }
  return sample;
}

void AddErrors(const std::vector<double>& part, std::vector<double>& total) {
  total.resize(part.size(), 0.0);
  for (std::size_t g = 0; g < part.size(); ++g) total[g] += part[g];
}

// Values [groups, part rows] into [groups, rows] from `begin`; `fill` where the part has none.
void PutRows(const std::vector<float>& part, std::size_t groups, std::size_t begin, std::size_t count, float fill,
             std::vector<float>& whole) {
  const std::size_t rows = whole.size() / groups;
  for (std::size_t g = 0; g < groups; ++g) {
    for (std::size_t r = 0; r < count; ++r) whole[g * rows + begin + r] = part.empty() ? fill : part[g * count + r];
  }
}

// The choices of a grouped convolution's inputs, each for its own output channels, as one.
CorrectionOutcome Join(const std::vector<CorrectionChoice>& choices, std::int64_t rows, std::size_t groups) {
  CorrectionOutcome outcome;
  CorrectionKind kind = CorrectionKind::kNone;
  for (const CorrectionChoice& choice : choices) {
    kind = std::max(kind, choice.kind);
    AddErrors(choice.error_before, outcome.report.error_before);
    AddErrors(choice.error_after, outcome.report.error_after);
    outcome.report.bits_per_weight += choice.bits_per_weight / static_cast<double>(choices.size());
  }
  outcome.report.kind = CorrectionKindName(kind);
  if (kind == CorrectionKind::kNone) return outcome;
  const std::size_t size = groups * static_cast<std::size_t>(rows);
  const std::size_t count = static_cast<std::size_t>(rows) / choices.size();
  outcome.correction.biases.resize(size);
  if (kind == CorrectionKind::kGainAndBias) outcome.correction.gains.resize(size);
  for (std::size_t i = 0; i < choices.size(); ++i) {
    PutRows(choices[i].correction.biases, groups, i * count, count, 0, outcome.correction.biases);
    if (kind == CorrectionKind::kGainAndBias) {
      PutRows(choices[i].correction.gains, groups, i * count, count, 1, outcome.correction.gains);
    }
  }
  return outcome;
}

}  // namespace

CorrectionOutcome MakeTimeCorrection(MatrixView<const float> weight, MatrixView<const float> quantized,
                                     const LayerInputs& inputs, const TimeGroups& seen_groups, int count) {
  const TimeGroups groups = CoarserUniform(seen_groups, count);
  const std::int64_t rows = weight.rows / static_cast<std::int64_t>(inputs.size());
  std::vector<CorrectionChoice> choices;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    std::vector<CorrectionSample> samples;
    samples.reserve(static_cast<std::size_t>(groups.size()));
    for (int g = 0; g < groups.size(); ++g) samples.push_back(SampleOf(*inputs[i], groups, seen_groups, g));
    const auto begin = static_cast<std::int64_t>(i) * rows;
    choices.push_back(ChooseCorrection(weight.Rows(begin, rows), quantized.Rows(begin, rows), samples));
  }
  CorrectionOutcome outcome = Join(choices, weight.rows, static_cast<std::size_t>(groups.size()));
  if (!outcome.correction.empty()) outcome.boundaries = groups.boundaries();
  return outcome;
}

}  // namespace arrow_quant
