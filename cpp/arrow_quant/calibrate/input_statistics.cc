#include "arrow_quant/calibrate/input_statistics.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/calibrate/column_moments.h"
#include "arrow_quant/kernels/to_float32.h"

namespace arrow_quant {
namespace {

void CheckRows(const ActivationRows& rows, std::int64_t channels) {
  if (rows.cols != channels) {
    throw Error(ErrorCode::kShapeMismatch, "activations of " + std::to_string(rows.cols) +
                                               " channels where the layer has " + std::to_string(channels));
  }
  if (rows.dtype != DType::kF32 && rows.dtype != DType::kBF16) {
    throw Error(ErrorCode::kInvalidArgument, "activations are float32 or bfloat16");
  }
}

void CheckReference(const ActivationRows* reference, const ActivationRows& rows) {
  if (reference == nullptr) return;
  CheckRows(*reference, rows.cols);
  if (reference->rows == rows.rows) return;
  throw Error(ErrorCode::kShapeMismatch, std::to_string(reference->rows) + " rows of the float model beside " +
                                             std::to_string(rows.rows) + " of the one that is measured");
}

// The caller's own array where it can be, else widened into `buffer`.
const float* AsFloat32(const ActivationRows& rows, AlignedVector<float>& buffer) {
  if (rows.dtype == DType::kF32) return static_cast<const float*>(rows.data);
  const std::int64_t count = rows.rows * rows.cols;
  buffer.resize(static_cast<std::size_t>(count));
  FastToFloat32(rows.dtype, static_cast<const std::byte*>(rows.data), count, buffer.data());
  return buffer.data();
}

bool AllFinite(const float* row, std::int64_t n) {
  // The sum of x * 0 is 0 for finite values and NaN otherwise, without a branch in the loop.
  float poison = 0;
  for (std::int64_t i = 0; i < n; ++i) poison += row[i] * 0.0F;
  return poison == 0;
}

void AddSums(const std::vector<AlignedVector<float>>& from, std::vector<AlignedVector<float>>& to) {
  for (std::size_t s = 0; s < to.size(); ++s) {
    if (to[s].size() < from[s].size()) to[s].assign(from[s].size(), 0.0F);
    for (std::size_t i = 0; i < from[s].size(); ++i) to[s][i] += from[s][i];
  }
}

}  // namespace

InputStatistics::InputStatistics(std::int64_t channels, const StatisticsOptions& options)
    : channels_(channels), options_(options), random_state_(options.seed) {
  if (channels < 1 || options.groups < 1 || options.held_out_rows < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                std::to_string(channels) + " channels in " + std::to_string(options.groups) + " time groups");
  }
  const auto groups = static_cast<std::size_t>(options.groups);
  counts_.resize(groups);
  sums_.resize(options.keep_groups ? groups : 1);
  channel_moments_.resize(groups);
  drifts_.resize(sums_.size());
  held_out_.resize(groups);
  held_out_reference_.resize(groups);
  offered_.resize(groups);
}

double InputStatistics::total_count() const {
  double total = 0;
  for (double count : counts_) total += count;
  return total;
}

std::int64_t InputStatistics::held_out_count(int group) const {
  return static_cast<std::int64_t>(held_out(group).size()) / channels_;
}

InputStatistics::Rows InputStatistics::FiniteRows(const ActivationRows& rows, const ActivationRows* reference) {
  CheckRows(rows, channels_);
  CheckReference(reference, rows);
  if (paired_.value_or(reference != nullptr) != (reference != nullptr)) {
    throw Error(ErrorCode::kInvalidArgument, "rows with and without those of a float model in one input");
  }
  paired_ = reference != nullptr;
  Rows found;
  const float* own = AsFloat32(rows, found.own_buffer);
  found.own = {own, DType::kF32, rows.rows, channels_};
  if (reference != nullptr) found.reference = AsFloat32(*reference, found.reference_buffer);
  const auto finite = [&](std::int64_t begin, std::int64_t count) {
    return AllFinite(own + begin, count) && (found.reference == nullptr || AllFinite(found.reference + begin, count));
  };
  if (finite(0, rows.rows * channels_)) return found;
  AlignedVector<float> own_kept;
  AlignedVector<float> reference_kept;
  for (std::int64_t at = 0; at < rows.rows * channels_; at += channels_) {
    if (!finite(at, channels_)) continue;
    own_kept.insert(own_kept.end(), own + at, own + at + channels_);
    if (reference == nullptr) continue;
    reference_kept.insert(reference_kept.end(), found.reference + at, found.reference + at + channels_);
  }
  found.own_buffer = std::move(own_kept);
  const std::int64_t kept = static_cast<std::int64_t>(found.own_buffer.size()) / channels_;
  non_finite_rows_ += rows.rows - kept;
  found.own = {found.own_buffer.data(), DType::kF32, kept, channels_};
  if (reference == nullptr) return found;
  found.reference_buffer = std::move(reference_kept);
  found.reference = found.reference_buffer.data();
  return found;
}

void InputStatistics::AddDrift(const Rows& rows, int group, int num_threads) {
  const auto* own = static_cast<const float*>(rows.own.data);
  AlignedVector<float> difference(static_cast<std::size_t>(rows.own.rows * channels_));
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] = rows.reference[i] - own[i];
  AlignedVector<float>& sums = drifts_[Slot(group)];
  if (sums.empty()) sums.assign(static_cast<std::size_t>(channels_ * channels_), 0.0F);
  AccumulateCrossMoment({difference.data(), DType::kF32, rows.own.rows, channels_}, rows.own, sums.data(), num_threads);
}

void InputStatistics::AddChannels(const float* rows, std::int64_t count, int group, double time) {
  const std::vector<Moments> batch = ColumnMoments(rows, count, channels_);
  auto& channels = channel_moments_[static_cast<std::size_t>(group)];
  channels.resize(batch.size());
  Moments all;
  for (std::size_t c = 0; c < batch.size(); ++c) {
    channels[c].Merge(batch[c]);
    all.Merge(batch[c]);
  }
  timesteps_[time].Merge(all);
}

void InputStatistics::Update(const ActivationRows& rows, int group, double time, int num_threads,
                             const ActivationRows* reference) {
  const Rows finite = FiniteRows(rows, reference);
  if (finite.own.rows == 0) return;
  AlignedVector<float>& sums = sums_[Slot(group)];
  if (sums.empty()) sums.assign(static_cast<std::size_t>(channels_ * channels_), 0.0F);
  AccumulateSecondMoment(finite.own, sums.data(), num_threads);
  if (finite.reference != nullptr) AddDrift(finite, group, num_threads);
  AddChannels(static_cast<const float*>(finite.own.data), finite.own.rows, group, time);
  counts_[static_cast<std::size_t>(group)] += static_cast<double>(finite.own.rows);
}

// splitmix64 (Steele, Lea and Flood 2014): the same reservoir on every machine.
std::uint64_t InputStatistics::NextRandom() {
  std::uint64_t z = (random_state_ += 0x9e3779b97f4a7c15ULL);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

// Puts a row at `at` of the reservoir, which is in it or its end.
void InputStatistics::KeepRow(const Rows& rows, std::int64_t row, int group, std::int64_t at) {
  const auto put = [&](const float* values, AlignedVector<float>& kept) {
    kept.resize(std::max(kept.size(), static_cast<std::size_t>((at + 1) * channels_)));
    std::copy_n(values + row * channels_, channels_, kept.begin() + at * channels_);
  };
  put(static_cast<const float*>(rows.own.data), held_out_[static_cast<std::size_t>(group)]);
  if (rows.reference != nullptr) put(rows.reference, held_out_reference_[static_cast<std::size_t>(group)]);
}

void InputStatistics::HoldOut(const ActivationRows& rows, int group, const ActivationRows* reference) {
  const Rows finite = FiniteRows(rows, reference);
  std::int64_t& offered = offered_[static_cast<std::size_t>(group)];
  for (std::int64_t r = 0; r < finite.own.rows; ++r) {
    ++offered;
    if (held_out_count(group) < options_.held_out_rows) {
      KeepRow(finite, r, group, held_out_count(group));
      continue;
    }
    const auto at = static_cast<std::int64_t>(NextRandom() % static_cast<std::uint64_t>(offered));
    if (at < options_.held_out_rows) KeepRow(finite, r, group, at);
  }
}

void InputStatistics::Merge(const InputStatistics& other) {
  if (other.channels_ != channels_ || other.options_.groups != options_.groups ||
      other.options_.keep_groups != options_.keep_groups) {
    throw Error(ErrorCode::kShapeMismatch, "statistics of inputs with different channels or time groups");
  }
  AddSums(other.sums_, sums_);
  AddSums(other.drifts_, drifts_);
  for (int g = 0; g < options_.groups; ++g) {
    const auto at = static_cast<std::size_t>(g);
    counts_[at] += other.counts_[at];
    channel_moments_[at].resize(std::max(channel_moments_[at].size(), other.channel_moments_[at].size()));
    for (std::size_t c = 0; c < other.channel_moments_[at].size(); ++c) {
      channel_moments_[at][c].Merge(other.channel_moments_[at][c]);
    }
    const std::int64_t unseen = other.offered_[at] - other.held_out_count(g);
    const ActivationRows reference{other.held_out_reference_[at].data(), DType::kF32, other.held_out_count(g),
                                   channels_};
    HoldOut({other.held_out_[at].data(), DType::kF32, other.held_out_count(g), channels_}, g,
            other.held_out_reference_[at].empty() ? nullptr : &reference);
    offered_[at] += unseen;
  }
  for (const auto& [time, moments] : other.timesteps_) timesteps_[time].Merge(moments);
  non_finite_rows_ += other.non_finite_rows_;
}

// visit(i, j, sum(i, j) / total) for every entry, or those with j >= i only, sum being of the slots as they are
// weighted; nothing without rows.
template <typename Visit>
void InputStatistics::Average(const std::vector<double>& weights, const std::vector<AlignedVector<float>>& sums,
                              bool upper, const Visit& visit) const {
  const bool weighted = !weights.empty() && options_.keep_groups;
  if (weighted && weights.size() != counts_.size()) {
    throw Error(ErrorCode::kInvalidArgument, std::to_string(weights.size()) + " time weights for " +
                                                 std::to_string(counts_.size()) + " time groups");
  }
  double total = 0;
  for (std::size_t g = 0; g < counts_.size(); ++g) total += counts_[g] * (weighted ? weights[g] : 1);
  if (!(total > 0)) return;
  const auto n = static_cast<std::size_t>(channels_);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = upper ? i : 0; j < n; ++j) {
      double value = 0;
      for (std::size_t s = 0; s < sums.size(); ++s) {
        if (!sums[s].empty()) value += (weighted ? weights[s] : 1) * static_cast<double>(sums[s][i * n + j]);
      }
      visit(i, j, static_cast<float>(value / total));
    }
  }
}

AlignedVector<float> InputStatistics::SecondMoment(const std::vector<double>& weights) const {
  const auto n = static_cast<std::size_t>(channels_);
  AlignedVector<float> full(n * n, 0.0F);
  Average(weights, sums_, true,
          [&](std::size_t i, std::size_t j, float value) { full[i * n + j] = full[j * n + i] = value; });
  return full;
}

AlignedVector<float> InputStatistics::Drift(const std::vector<double>& weights) const {
  if (std::all_of(drifts_.begin(), drifts_.end(), [](const auto& sums) { return sums.empty(); })) return {};
  const auto n = static_cast<std::size_t>(channels_);
  AlignedVector<float> full(n * n, 0.0F);
  Average(weights, drifts_, false, [&](std::size_t i, std::size_t j, float value) { full[i * n + j] = value; });
  return full;
}

void InputStatistics::Restore(int group, std::vector<Moments> channel_moments, AlignedVector<float> held_out,
                              std::int64_t offered) {
  const auto at = static_cast<std::size_t>(group);
  if (group < 0 || at >= counts_.size() ||
      (!channel_moments.empty() && channel_moments.size() != static_cast<std::size_t>(channels_)) ||
      held_out.size() % static_cast<std::size_t>(channels_) != 0) {
    throw Error(ErrorCode::kShapeMismatch, "stored statistics do not fit their input");
  }
  counts_[at] = channel_moments.empty() ? 0 : channel_moments.front().count;
  channel_moments_[at] = std::move(channel_moments);
  held_out_[at] = std::move(held_out);
  offered_[at] = offered;
}

void InputStatistics::RestoreSecondMoment(int group, AlignedVector<float> sums) {
  if (group < 0 || Slot(group) >= sums_.size() ||
      sums.size() != static_cast<std::size_t>(channels_) * static_cast<std::size_t>(channels_)) {
    throw Error(ErrorCode::kShapeMismatch, "a stored second moment does not fit its input");
  }
  sums_[Slot(group)] = std::move(sums);
}

void InputStatistics::RestoreDrift(int group, AlignedVector<float> drift) {
  if (group < 0 || Slot(group) >= drifts_.size() ||
      drift.size() != static_cast<std::size_t>(channels_) * static_cast<std::size_t>(channels_)) {
    throw Error(ErrorCode::kShapeMismatch, "a stored drift does not fit its input");
  }
  drifts_[Slot(group)] = std::move(drift);
}

void InputStatistics::RestoreReference(int group, AlignedVector<float> held_out_reference) {
  if (group < 0 || group >= options_.groups || held_out_reference.size() != held_out(group).size()) {
    throw Error(ErrorCode::kShapeMismatch, "stored rows of a float model do not fit their input");
  }
  held_out_reference_[static_cast<std::size_t>(group)] = std::move(held_out_reference);
}

void InputStatistics::RestoreTotals(std::map<double, Moments> timesteps, std::int64_t non_finite_rows) {
  timesteps_ = std::move(timesteps);
  non_finite_rows_ = non_finite_rows;
}

void SplitHeldOut(const AlignedVector<float>& rows, std::int64_t channels, AlignedVector<float>& fit,
                  AlignedVector<float>& judge) {
  const auto width = static_cast<std::ptrdiff_t>(channels);
  for (std::ptrdiff_t r = 0; r * width < static_cast<std::ptrdiff_t>(rows.size()); ++r) {
    AlignedVector<float>& half = r % 2 == 0 ? fit : judge;
    half.insert(half.end(), rows.begin() + r * width, rows.begin() + (r + 1) * width);
  }
}

}  // namespace arrow_quant
