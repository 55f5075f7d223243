#pragma once

#include <map>
#include <vector>

#include "arrow_quant/calibrate/column_moments.h"
#include "arrow_quant/calibrate/time_groups.h"

namespace arrow_quant {

// Fewer, longer groups made of whole groups of `fine`: `fine` where `count` is no smaller, else the boundaries of
// equally long groups, each moved to the nearest boundary of `fine`. Throws Error kInvalidArgument for count < 1.
TimeGroups CoarserUniform(const TimeGroups& fine, int count);

// At most `count` groups made of whole groups of `fine`, cut where the range of the values changes. A group costs the
// number of its values times the square of its range, max - min, which is what the squared error of one static range
// grows with; the cost is least over all segmentations (dynamic programming, as Bellman 1961 for broken lines), and
// the number of groups is the first whose next cut would gain less than `least_gain` of the cost so far.
TimeGroups SegmentTimes(const std::map<double, Moments>& timesteps, const TimeGroups& fine, int count,
                        double least_gain = 0.02);

}  // namespace arrow_quant
