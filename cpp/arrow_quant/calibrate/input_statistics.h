#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/calibrate/column_moments.h"
#include "arrow_quant/linalg/second_moment.h"

namespace arrow_quant {

struct StatisticsOptions {
  int groups = 1;
  bool keep_groups = true;         // one second moment per time group, or one for all
  std::int64_t held_out_rows = 0;  // reservoir of whole rows, per time group
  std::uint64_t seed = 0;
};

// What was seen of one input, which several layers may share: per time group the second moment H_t = sum x x^T, per
// channel count, mean, std, min and max, whole held-out rows; and per timestep the mean, std, min and max of all
// values.
//
// Rows with NaN or infinity are left out and counted. Sums depend on the order of updates, not on the number of
// threads.
class InputStatistics {
 public:
  InputStatistics(std::int64_t channels, const StatisticsOptions& options);

  // Adds rows seen at `time`, which lies in `group`. Throws Error kShapeMismatch, kInvalidArgument.
  void Update(const ActivationRows& rows, int group, double time, int num_threads);
  // Offers rows of a sample that is not in the second moment to the reservoir of `group` (Vitter, algorithm R).
  void HoldOut(const ActivationRows& rows, int group);
  // As if the other's rows had come after these. Throws Error kShapeMismatch where the two are of different inputs.
  void Merge(const InputStatistics& other);

  std::int64_t channels() const { return channels_; }
  const StatisticsOptions& options() const { return options_; }
  double count(int group) const { return counts_[static_cast<std::size_t>(group)]; }
  double total_count() const;
  std::int64_t non_finite_rows() const { return non_finite_rows_; }
  // One per channel.
  const std::vector<Moments>& channel_moments(int group) const {
    return channel_moments_[static_cast<std::size_t>(group)];
  }
  const std::map<double, Moments>& timesteps() const { return timesteps_; }
  // [rows, channels].
  const AlignedVector<float>& held_out(int group) const { return held_out_[static_cast<std::size_t>(group)]; }
  std::int64_t held_out_count(int group) const;

  // E[x x^T] with time groups weighted by `weights` (empty: every row alike), full and symmetric [channels, channels].
  // Weights are ignored where groups were merged. All zero when no row was seen.
  AlignedVector<float> SecondMoment(const std::vector<double>& weights = {}) const;

  // The stored sums, upper triangle of x x^T at [i * channels + j], j >= i: of one group, or of all when merged.
  const AlignedVector<float>& raw_second_moment(int group) const { return sums_[Slot(group)]; }

  // Puts a group back as another run kept it. Throws Error kShapeMismatch.
  void Restore(int group, std::vector<Moments> channel_moments, AlignedVector<float> held_out, std::int64_t offered);
  void RestoreSecondMoment(int group, AlignedVector<float> sums);
  void RestoreTotals(std::map<double, Moments> timesteps, std::int64_t non_finite_rows);
  std::int64_t held_out_offered(int group) const { return offered_[static_cast<std::size_t>(group)]; }

 private:
  std::size_t Slot(int group) const { return options_.keep_groups ? static_cast<std::size_t>(group) : 0; }
  // The finite rows as float32: the caller's own where it can, else in `buffer`.
  ActivationRows FiniteRows(const ActivationRows& rows, AlignedVector<float>& buffer);
  void AddChannels(const float* rows, std::int64_t count, int group, double time);
  std::uint64_t NextRandom();

  std::int64_t channels_;
  StatisticsOptions options_;
  std::vector<double> counts_;
  std::vector<AlignedVector<float>> sums_;
  std::vector<std::vector<Moments>> channel_moments_;
  std::map<double, Moments> timesteps_;
  std::vector<AlignedVector<float>> held_out_;
  std::vector<std::int64_t> offered_;  // rows offered to each reservoir
  std::int64_t non_finite_rows_ = 0;
  std::uint64_t random_state_;
};

// Appends every other row of `rows` [n, channels] to `fit` and the others to `judge`: rows that follow each other in
// the reservoir may be neighbours of one sample.
void SplitHeldOut(const AlignedVector<float>& rows, std::int64_t channels, AlignedVector<float>& fit,
                  AlignedVector<float>& judge);

}  // namespace arrow_quant
