#include "arrow_quant/quantize/time_aware/range_transitions.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <numeric>
#include <utility>

namespace arrow_quant {
namespace {

constexpr double kTimestepsOfSpan = 1000;
// Steepness of the logistic function over a window; its ends are cut to 0 and 1.
constexpr double kSteepness = 10;

struct Range {
  double low = 0;
  double high = 0;
};

Range RangeOf(const ActivationTable& table, std::size_t i) {
  const auto scale = static_cast<double>(table.scales[i]);
  const auto zero = static_cast<double>(table.zero_points[i]);
  return {-zero * scale, (kActivationLevels - zero) * scale};
}

// Ranges of one group: per input, per block.
std::vector<std::vector<Range>> RangesOfGroups(const ActivationTable& table) {
  std::vector<std::vector<Range>> groups;
  std::size_t at = 0;
  for (const std::int64_t size : table.block_sizes) {
    const auto count = static_cast<std::size_t>(table.layout.inputs * table.layout.Blocks(size));
    std::vector<Range> ranges;
    ranges.reserve(count);
    for (std::size_t i = 0; i < count; ++i) ranges.push_back(RangeOf(table, at + i));
    at += count;
    groups.push_back(std::move(ranges));
  }
  return groups;
}

double Width(const std::vector<Range>& ranges) {
  Range whole;
  for (const Range& r : ranges) whole = {std::min(whole.low, r.low), std::max(whole.high, r.high)};
  return whole.high - whole.low;
}

// The ranges of blocks of `size` channels in blocks of `finer`, which hold all that the channels' blocks hold.
std::vector<Range> InFinerBlocks(const std::vector<Range>& ranges, const InputLayout& layout, std::int64_t size,
                                 std::int64_t finer) {
  std::vector<Range> result;
  const std::int64_t blocks = layout.Blocks(size);
  for (std::int64_t input = 0; input < layout.inputs; ++input) {
    for (std::int64_t begin = 0; begin < layout.channels; begin += finer) {
      const std::int64_t last = std::min(begin + finer, layout.channels) - 1;
      Range whole;
      for (std::int64_t b = begin / size; b <= last / size; ++b) {
        const Range& r = ranges[static_cast<std::size_t>(input * blocks + b)];
        whole = {std::min(whole.low, r.low), std::max(whole.high, r.high)};
      }
      result.push_back(whole);
    }
  }
  return result;
}

double Share(double x, Interpolation interpolation) {
  switch (interpolation) {
    case Interpolation::kLinear:
      return x;
    case Interpolation::kCubic:
      return x * x * (3 - 2 * x);
    case Interpolation::kSigmoid:
      return 1 / (1 + std::exp(-kSteepness * (x - 0.5)));
  }
  return x;
}

void AppendGroup(double end, std::int64_t block_size, const std::vector<Range>& ranges, ActivationTable& table) {
  table.boundaries.push_back(end);
  table.block_sizes.push_back(block_size);
  for (const Range& r : ranges) {
    const double scale = (r.high - r.low) / kActivationLevels;
    table.scales.push_back(static_cast<float>(scale));
    table.zero_points.push_back(static_cast<float>(-r.low / scale));
  }
}

// Groups between the ranges of group g and those of g + 1, over [begin, end) in `steps` equal parts.
void AppendSteps(const ActivationTable& from, const std::vector<std::vector<Range>>& groups, std::size_t g,
                 double begin, double end, int steps, Interpolation interpolation, ActivationTable& table) {
  const std::int64_t size = std::min(from.block_sizes[g], from.block_sizes[g + 1]);
  const std::vector<Range> a = InFinerBlocks(groups[g], from.layout, from.block_sizes[g], size);
  const std::vector<Range> b = InFinerBlocks(groups[g + 1], from.layout, from.block_sizes[g + 1], size);
  for (int step = 0; step < steps; ++step) {
    const double share = Share((step + 0.5) / steps, interpolation);
    std::vector<Range> ranges;
    ranges.reserve(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      ranges.push_back({std::lerp(a[i].low, b[i].low, share), std::lerp(a[i].high, b[i].high, share)});
    }
    AppendGroup(begin + (end - begin) * (step + 1) / steps, size, ranges, table);
  }
}

// Of the jump from group g to g + 1.
double Beta(std::size_t g, std::size_t groups, BetaSchedule schedule) {
  const double noise = static_cast<double>(g + 1) / static_cast<double>(groups);
  if (schedule == BetaSchedule::kLinear) return noise;
  const double sine = std::sin(std::numbers::pi / 2 * noise);
  return sine * sine;
}

// Objective and gradient of JumpPenaltyFactors.
double Objective(const std::vector<double>& u, const std::vector<double>& v, const JumpPenalty& penalty,
                 std::vector<double>& gradient) {
  const std::size_t n = u.size();
  const double mean = std::accumulate(u.begin(), u.end(), 0.0) / static_cast<double>(n);
  double value = 0;
  for (std::size_t g = 0; g < n; ++g) {
    value += (u[g] - v[g]) * (u[g] - v[g]) + penalty.entropy_weight * (u[g] - mean) * (u[g] - mean);
    gradient[g] = 2 * (u[g] - v[g]) + 2 * penalty.entropy_weight * (u[g] - mean);
  }
  for (std::size_t g = 0; g + 1 < n; ++g) {
    const double weight = penalty.markov_weight * Beta(g, n, penalty.schedule);
    const double jump = u[g + 1] - u[g];
    value += weight * jump * jump;
    gradient[g] -= 2 * weight * jump;
    gradient[g + 1] += 2 * weight * jump;
  }
  return value;
}

}  // namespace

std::vector<double> RangeJumps(const ActivationTable& table) {
  std::vector<double> widths;
  for (const auto& ranges : RangesOfGroups(table)) widths.push_back(Width(ranges));
  std::vector<double> jumps;
  for (std::size_t g = 0; g + 1 < widths.size(); ++g) {
    jumps.push_back(std::abs(widths[g + 1] - widths[g]) / std::max(widths[g + 1], widths[g]));
  }
  return jumps;
}

ActivationTable SmoothBoundaries(const ActivationTable& table, int window, Interpolation interpolation) {
  const auto groups = RangesOfGroups(table);
  const std::vector<double>& edges = table.boundaries;
  const double step = (edges.back() - edges.front()) / kTimestepsOfSpan;
  ActivationTable smooth;
  smooth.layout = table.layout;
  smooth.boundaries = {edges.front()};
  for (std::size_t g = 0; g < groups.size(); ++g) {
    double half = 0;
    if (g + 1 < groups.size()) {
      const double shorter = std::min(edges[g + 1] - edges[g], edges[g + 2] - edges[g + 1]);
      half = std::min(window * step, shorter / 2);
    }
    const double end = edges[g + 1] - half;
    // A group that its windows fill has no time left to itself.
    if (end > smooth.boundaries.back()) AppendGroup(end, table.block_sizes[g], groups[g], smooth);
    if (half > 0) {
      AppendSteps(table, groups, g, smooth.boundaries.back(), edges[g + 1] + half, 2 * window, interpolation, smooth);
    }
  }
  return smooth;
}

std::vector<double> JumpPenaltyFactors(const ActivationTable& table, const JumpPenalty& penalty) {
  std::vector<double> v;
  for (const auto& ranges : RangesOfGroups(table)) v.push_back(std::log(Width(ranges)));
  std::vector<double> u = v;
  std::vector<double> gradient(u.size());
  double value = Objective(u, v, penalty, gradient);
  for (int i = 0; i < penalty.max_iterations; ++i) {
    for (std::size_t g = 0; g < u.size(); ++g) u[g] = std::max(v[g], u[g] - penalty.learning_rate * gradient[g]);
    const double next = Objective(u, v, penalty, gradient);
    if (std::abs(value - next) <= penalty.convergence_threshold * value) break;
    value = next;
  }
  for (std::size_t g = 0; g < u.size(); ++g) u[g] = std::exp(u[g] - v[g]);
  return u;
}

ActivationTable Stretched(ActivationTable table, const std::vector<double>& factors) {
  std::size_t at = 0;
  for (std::size_t g = 0; g < factors.size(); ++g) {
    const auto count = static_cast<std::size_t>(table.layout.inputs * table.layout.Blocks(table.block_sizes[g]));
    for (std::size_t i = 0; i < count; ++i, ++at) {
      table.scales[at] = static_cast<float>(static_cast<double>(table.scales[at]) * factors[g]);
    }
  }
  return table;
}

}  // namespace arrow_quant
