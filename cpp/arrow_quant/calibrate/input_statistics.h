#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
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
// Where a float model runs beside the one that is measured, the rows that it has in place of these are the reference:
// their difference, as a cross moment, says what the errors of earlier layers do to this input.
//
// Rows with NaN or infinity are left out and counted. Sums depend on the order of updates, not on the number of
// threads.
class InputStatistics {
 public:
  InputStatistics(std::int64_t channels, const StatisticsOptions& options);

  // Adds rows seen at `time`, which lies in `group`. `reference`: as many rows of the float model, in all updates or in
  // none. Throws Error kShapeMismatch, kInvalidArgument.
  void Update(const ActivationRows& rows, int group, double time, int num_threads,
              const ActivationRows* reference = nullptr);
  // Offers rows of a sample that is not in the second moment to the reservoir of `group` (Vitter, algorithm R).
  void HoldOut(const ActivationRows& rows, int group, const ActivationRows* reference = nullptr);
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
  // The float model's rows in the places of these; empty without a reference.
  const AlignedVector<float>& held_out_reference(int group) const {
    return held_out_reference_[static_cast<std::size_t>(group)];
  }

  // E[x x^T] with time groups weighted by `weights` (empty: every row alike), full and symmetric [channels, channels].
  // Weights are ignored where groups were merged. All zero when no row was seen.
  AlignedVector<float> SecondMoment(const std::vector<double>& weights = {}) const;
  // E[(x_float - x) x^T], weighted in the same way, [channels, channels]; empty without a reference.
  AlignedVector<float> Drift(const std::vector<double>& weights = {}) const;

  // The stored sums, upper triangle of x x^T at [i * channels + j], j >= i: of one group, or of all when merged.
  const AlignedVector<float>& raw_second_moment(int group) const { return sums_[Slot(group)]; }
  // The sum of (x_float - x) x^T, in the same way; empty without a reference.
  const AlignedVector<float>& raw_drift(int group) const { return drifts_[Slot(group)]; }

  // Puts a group back as another run kept it. Throws Error kShapeMismatch.
  void Restore(int group, std::vector<Moments> channel_moments, AlignedVector<float> held_out, std::int64_t offered);
  void RestoreSecondMoment(int group, AlignedVector<float> sums);
  void RestoreReference(int group, AlignedVector<float> held_out_reference);
  void RestoreDrift(int group, AlignedVector<float> drift);
  void RestoreTotals(std::map<double, Moments> timesteps, std::int64_t non_finite_rows);
  std::int64_t held_out_offered(int group) const { return offered_[static_cast<std::size_t>(group)]; }

 private:
  std::size_t Slot(int group) const { return options_.keep_groups ? static_cast<std::size_t>(group) : 0; }
  // Rows as float32, their owner where they are not the caller's, and those of the reference (null without one).
  struct Rows {
    ActivationRows own;
    const float* reference = nullptr;
    AlignedVector<float> own_buffer;
    AlignedVector<float> reference_buffer;
  };
  // The rows that are finite, in both models.
  Rows FiniteRows(const ActivationRows& rows, const ActivationRows* reference);
  void AddChannels(const float* rows, std::int64_t count, int group, double time);
  void AddDrift(const Rows& rows, int group, int num_threads);
  void KeepRow(const Rows& rows, std::int64_t row, int group, std::int64_t at);
  template <typename Visit>
  void Average(const std::vector<double>& weights, const std::vector<AlignedVector<float>>& sums, bool upper,
               const Visit& visit) const;
  std::uint64_t NextRandom();

  std::int64_t channels_;
  StatisticsOptions options_;
  std::vector<double> counts_;
  std::vector<AlignedVector<float>> sums_;
  std::vector<AlignedVector<float>> drifts_;
  std::vector<std::vector<Moments>> channel_moments_;
  std::map<double, Moments> timesteps_;
  std::vector<AlignedVector<float>> held_out_;
  std::vector<AlignedVector<float>> held_out_reference_;
  std::vector<std::int64_t> offered_;  // rows offered to each reservoir
  std::int64_t non_finite_rows_ = 0;
  std::uint64_t random_state_;
  std::optional<bool> paired_;  // whether rows come with a reference
};

// Appends every other row of `rows` [n, channels] to `fit` and the others to `judge`: rows that follow each other in
// the reservoir may be neighbours of one sample.
void SplitHeldOut(const AlignedVector<float>& rows, std::int64_t channels, AlignedVector<float>& fit,
                  AlignedVector<float>& judge);

}  // namespace arrow_quant
