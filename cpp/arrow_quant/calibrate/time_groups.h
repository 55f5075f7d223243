#pragma once

#include <cstddef>
#include <vector>

namespace arrow_quant {

// Contiguous ranges of diffusion time. Time is a timestep in [0, T) of an image or audio model, or a mask ratio in
// [0, 1] of a masked language model; 0 is the least noisy end. Group i is [boundaries[i], boundaries[i + 1]).
class TimeGroups {
 public:
  // One group that holds every time.
  TimeGroups() : boundaries_{0, 1} {}
  // Ascending boundaries, one more than groups. Throws Error kInvalidArgument.
  explicit TimeGroups(std::vector<double> boundaries);

  // boundary_i = i * span / count; more groups than `steps` (0: any number) are clamped to `steps`.
  static TimeGroups Uniform(double span, int count, int steps = 0);

  // The group of a time; what lies outside belongs to the nearest one. NaN belongs to the last.
  int Of(double time) const;
  int size() const { return static_cast<int>(boundaries_.size()) - 1; }
  const std::vector<double>& boundaries() const { return boundaries_; }

 private:
  std::vector<double> boundaries_;
};

}  // namespace arrow_quant
