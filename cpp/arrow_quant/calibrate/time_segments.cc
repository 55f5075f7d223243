#include "arrow_quant/calibrate/time_segments.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

void CheckCount(int count) {
  if (count < 1) throw Error(ErrorCode::kInvalidArgument, std::to_string(count) + " time groups");
}

// Costs of every run of groups [first, last]: cost(first, last) at [first][last].
std::vector<std::vector<double>> SegmentCosts(const std::vector<Moments>& groups) {
  const std::size_t n = groups.size();
  std::vector<std::vector<double>> costs(n, std::vector<double>(n, 0.0));
  for (std::size_t first = 0; first < n; ++first) {
    Moments segment;
    for (std::size_t last = first; last < n; ++last) {
      segment.Merge(groups[last]);
      const double range = static_cast<double>(segment.max) - static_cast<double>(segment.min);
      costs[first][last] = segment.count * range * range;
    }
  }
  return costs;
}

// One level of the recursion: the least costs of the first i groups in one segment more, and where the last begins.
struct Level {
  std::vector<double> costs;
  std::vector<std::size_t> begins;
};

Level NextLevel(const Level& before, const std::vector<std::vector<double>>& segment_costs) {
  const std::size_t n = segment_costs.size();
  Level level{std::vector<double>(n + 1, std::numeric_limits<double>::infinity()), std::vector<std::size_t>(n + 1, 0)};
  for (std::size_t end = 1; end <= n; ++end) {
    for (std::size_t begin = 0; begin < end; ++begin) {
      const double cost = before.costs[begin] + segment_costs[begin][end - 1];
      if (cost < level.costs[end]) level.costs[end] = cost, level.begins[end] = begin;
    }
  }
  return level;
}

std::vector<double> CutsOf(const std::vector<Level>& levels, const std::vector<double>& fine) {
  std::size_t end = fine.size() - 1;
  std::vector<double> boundaries = {fine.back()};
  for (auto level = levels.rbegin(); level != levels.rend(); ++level) {
    end = level->begins[end];
    boundaries.push_back(fine[end]);
  }
  std::reverse(boundaries.begin(), boundaries.end());
  return boundaries;
}

}  // namespace

TimeGroups CoarserUniform(const TimeGroups& fine, int count) {
  CheckCount(count);
  if (count >= fine.size()) return fine;
  const std::vector<double>& from = fine.boundaries();
  std::vector<double> boundaries = {from.front()};
  for (int i = 1; i < count; ++i) {
    const double wanted = from.front() + (from.back() - from.front()) * i / count;
    const auto nearer = [&](double a, double b) { return std::abs(a - wanted) < std::abs(b - wanted); };
    const double nearest = *std::min_element(from.begin() + 1, from.end() - 1, nearer);
    if (nearest > boundaries.back()) boundaries.push_back(nearest);
  }
  boundaries.push_back(from.back());
  return TimeGroups(std::move(boundaries));
}

TimeGroups SegmentTimes(const std::map<double, Moments>& timesteps, const TimeGroups& fine, int count,
                        double least_gain) {
  CheckCount(count);
  std::vector<Moments> groups(static_cast<std::size_t>(fine.size()));
  for (const auto& [time, moments] : timesteps) groups[static_cast<std::size_t>(fine.Of(time))].Merge(moments);
  const std::vector<std::vector<double>> costs = SegmentCosts(groups);
  Level none{std::vector<double>(groups.size() + 1, std::numeric_limits<double>::infinity()), {}};
  none.costs[0] = 0;
  std::vector<Level> levels = {NextLevel(none, costs)};
  while (static_cast<int>(levels.size()) < std::min(count, fine.size())) {
    Level next = NextLevel(levels.back(), costs);
    const double before = levels.back().costs.back();
    if (!(before - next.costs.back() > least_gain * before)) break;
    levels.push_back(std::move(next));
  }
  return TimeGroups(CutsOf(levels, fine.boundaries()));
}

}  // namespace arrow_quant
