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

bool AllFinite(const float* row, std::int64_t n) {
  // The sum of x * 0 is 0 for finite values and NaN otherwise, without a branch in the loop.
  float poison = 0;
  for (std::int64_t i = 0; i < n; ++i) poison += row[i] * 0.0F;
  return poison == 0;
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
  held_out_.resize(groups);
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

ActivationRows InputStatistics::FiniteRows(const ActivationRows& rows, AlignedVector<float>& buffer) {
  const auto* values = static_cast<const float*>(rows.data);
  if (rows.dtype != DType::kF32) {
    buffer.resize(static_cast<std::size_t>(rows.rows * channels_));
    FastToFloat32(rows.dtype, static_cast<const std::byte*>(rows.data), rows.rows * channels_, buffer.data());
    values = buffer.data();
  }
  if (AllFinite(values, rows.rows * channels_)) return {values, DType::kF32, rows.rows, channels_};
  AlignedVector<float> finite;
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    const float* row = values + r * channels_;
    if (AllFinite(row, channels_)) finite.insert(finite.end(), row, row + channels_);
  }
  buffer = std::move(finite);
  const std::int64_t kept = static_cast<std::int64_t>(buffer.size()) / channels_;
  non_finite_rows_ += rows.rows - kept;
  return {buffer.data(), DType::kF32, kept, channels_};
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

void InputStatistics::Update(const ActivationRows& rows, int group, double time, int num_threads) {
  CheckRows(rows, channels_);
  AlignedVector<float> buffer;
  const ActivationRows finite = FiniteRows(rows, buffer);
  if (finite.rows == 0) return;
  AlignedVector<float>& sums = sums_[Slot(group)];
  if (sums.empty()) sums.assign(static_cast<std::size_t>(channels_ * channels_), 0.0F);
  AccumulateSecondMoment(finite, sums.data(), num_threads);
  AddChannels(static_cast<const float*>(finite.data), finite.rows, group, time);
  counts_[static_cast<std::size_t>(group)] += static_cast<double>(finite.rows);
}

// splitmix64 (Steele, Lea and Flood 2014): the same reservoir on every machine.
std::uint64_t InputStatistics::NextRandom() {
  std::uint64_t z = (random_state_ += 0x9e3779b97f4a7c15ULL);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

void InputStatistics::HoldOut(const ActivationRows& rows, int group) {
  CheckRows(rows, channels_);
  AlignedVector<float> buffer;
  const ActivationRows finite = FiniteRows(rows, buffer);
  AlignedVector<float>& kept = held_out_[static_cast<std::size_t>(group)];
  std::int64_t& offered = offered_[static_cast<std::size_t>(group)];
  for (std::int64_t r = 0; r < finite.rows; ++r) {
    const float* row = static_cast<const float*>(finite.data) + r * channels_;
    ++offered;
    if (held_out_count(group) < options_.held_out_rows) {
      kept.insert(kept.end(), row, row + channels_);
      continue;
    }
    const auto at = static_cast<std::int64_t>(NextRandom() % static_cast<std::uint64_t>(offered));
    if (at < options_.held_out_rows) std::copy(row, row + channels_, kept.begin() + at * channels_);
  }
}

void InputStatistics::Merge(const InputStatistics& other) {
  if (other.channels_ != channels_ || other.options_.groups != options_.groups ||
      other.options_.keep_groups != options_.keep_groups) {
    throw Error(ErrorCode::kShapeMismatch, "statistics of inputs with different channels or time groups");
  }
  for (std::size_t s = 0; s < sums_.size(); ++s) {
    if (other.sums_[s].empty()) continue;
    if (sums_[s].empty()) sums_[s].assign(other.sums_[s].size(), 0.0F);
    for (std::size_t i = 0; i < sums_[s].size(); ++i) sums_[s][i] += other.sums_[s][i];
  }
  for (int g = 0; g < options_.groups; ++g) {
    const auto at = static_cast<std::size_t>(g);
    counts_[at] += other.counts_[at];
    channel_moments_[at].resize(std::max(channel_moments_[at].size(), other.channel_moments_[at].size()));
    for (std::size_t c = 0; c < other.channel_moments_[at].size(); ++c) {
      channel_moments_[at][c].Merge(other.channel_moments_[at][c]);
    }
    const std::int64_t unseen = other.offered_[at] - other.held_out_count(g);
    HoldOut({other.held_out_[at].data(), DType::kF32, other.held_out_count(g), channels_}, g);
    offered_[at] += unseen;
  }
  for (const auto& [time, moments] : other.timesteps_) timesteps_[time].Merge(moments);
  non_finite_rows_ += other.non_finite_rows_;
}

AlignedVector<float> InputStatistics::SecondMoment(const std::vector<double>& weights) const {
  const bool weighted = !weights.empty() && options_.keep_groups;
  if (weighted && weights.size() != counts_.size()) {
    throw Error(ErrorCode::kInvalidArgument, std::to_string(weights.size()) + " time weights for " +
                                                 std::to_string(counts_.size()) + " time groups");
  }
  const auto n = static_cast<std::size_t>(channels_);
  AlignedVector<float> full(n * n, 0.0F);
  double total = 0;
  for (std::size_t g = 0; g < counts_.size(); ++g) total += counts_[g] * (weighted ? weights[g] : 1);
  if (!(total > 0)) return full;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = i; j < n; ++j) {
      double value = 0;
      for (std::size_t s = 0; s < sums_.size(); ++s) {
        if (!sums_[s].empty()) value += (weighted ? weights[s] : 1) * static_cast<double>(sums_[s][i * n + j]);
      }
      full[i * n + j] = full[j * n + i] = static_cast<float>(value / total);
    }
  }
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
