#include "arrow_quant/calibrate/time_groups.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "arrow_quant/base/error.h"

namespace arrow_quant {

TimeGroups::TimeGroups(std::vector<double> boundaries) : boundaries_(std::move(boundaries)) {
  const auto descends = [](double a, double b) { return !(a < b); };
  if (boundaries_.size() < 2 ||
      std::adjacent_find(boundaries_.begin(), boundaries_.end(), descends) != boundaries_.end() ||
      !std::isfinite(boundaries_.front()) || !std::isfinite(boundaries_.back())) {
    throw Error(ErrorCode::kInvalidArgument, "the boundaries of time groups do not ascend",
                {.remedy = "Give at least two finite ascending values."});
  }
}

TimeGroups TimeGroups::Uniform(double span, int count, int steps) {
  if (!(span > 0) || !std::isfinite(span) || count < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                std::to_string(count) + " time groups over a span of " + std::to_string(span),
                {.remedy = "Give a positive span and at least one group."});
  }
  if (steps > 0) count = std::min(count, steps);
  std::vector<double> boundaries;
  for (int i = 0; i <= count; ++i) boundaries.push_back(span * i / count);
  return TimeGroups(std::move(boundaries));
}

int TimeGroups::Of(double time) const {
  const auto inner_end = boundaries_.end() - 1;
  return static_cast<int>(std::upper_bound(boundaries_.begin() + 1, inner_end, time) - boundaries_.begin()) - 1;
}

}  // namespace arrow_quant
