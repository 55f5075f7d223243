#include "arrow_quant/calibrate/time_segments.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <random>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

Moments Seen(float range, double count = 1) { return {count, 0, 0, -range / 2, range / 2}; }

// Cost of a segmentation, by the definition.
double CostOf(const std::vector<Moments>& groups, const std::vector<std::size_t>& ends) {
  double cost = 0;
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    Moments segment;
    for (std::size_t i = begin; i < end; ++i) segment.Merge(groups[i]);
    const double range = static_cast<double>(segment.max) - static_cast<double>(segment.min);
    cost += segment.count * range * range;
    begin = end;
  }
  return cost;
}

double LeastCost(const std::vector<Moments>& groups, std::size_t segments) {
  double least = std::numeric_limits<double>::infinity();
  std::vector<std::size_t> ends;
  const std::function<void(std::size_t)> place = [&](std::size_t begin) {
    if (ends.size() + 1 == segments) {
      ends.push_back(groups.size());
      least = std::min(least, CostOf(groups, ends));
      ends.pop_back();
      return;
    }
    for (std::size_t end = begin + 1; end < groups.size(); ++end) {
      ends.push_back(end);
      place(end);
      ends.pop_back();
    }
  };
  place(0);
  return least;
}

TEST(TimeSegments, CutsWhereTheRangeChanges) {
  std::map<double, Moments> seen;
  for (int t = 0; t < 100; t += 10) seen[t] = Seen(t < 30 ? 1.0F : t < 80 ? 5.0F : 20.0F);
  const TimeGroups groups = SegmentTimes(seen, TimeGroups::Uniform(100, 10), 8);
  EXPECT_EQ(groups.boundaries(), (std::vector<double>{0, 30, 80, 100}));
}

TEST(TimeSegments, EqualRangesNeedNoCut) {
  std::map<double, Moments> seen;
  for (int t = 0; t < 100; t += 10) seen[t] = Seen(3);
  EXPECT_EQ(SegmentTimes(seen, TimeGroups::Uniform(100, 10), 8).size(), 1);
  EXPECT_EQ(SegmentTimes({}, TimeGroups::Uniform(100, 10), 8).size(), 1);
}

TEST(TimeSegments, AreTheBestOfAll) {
  std::mt19937 random(7);
  for (int round = 0; round < 20; ++round) {
    const TimeGroups fine = TimeGroups::Uniform(9, 9);
    std::map<double, Moments> seen;
    std::vector<Moments> groups;
    for (int t = 0; t < 9; ++t) {
      groups.push_back(Seen(1 + static_cast<float>(random() % 100), 1 + static_cast<double>(random() % 5)));
      seen[t] = groups.back();
    }
    const TimeGroups found = SegmentTimes(seen, fine, 4, 0);
    std::vector<std::size_t> ends;
    for (int i = 1; i <= found.size(); ++i) {
      ends.push_back(static_cast<std::size_t>(found.boundaries()[static_cast<std::size_t>(i)]));
    }
    // Sums of a few doubles in another order.
    EXPECT_NEAR(CostOf(groups, ends), LeastCost(groups, static_cast<std::size_t>(found.size())), 1e-6);
  }
}

TEST(TimeSegments, CoarserGroupsKeepBoundaries) {
  EXPECT_EQ(CoarserUniform(TimeGroups::Uniform(1000, 10), 5).boundaries(),
            (std::vector<double>{0, 200, 400, 600, 800, 1000}));
  EXPECT_EQ(CoarserUniform(TimeGroups::Uniform(1000, 10), 1).boundaries(), (std::vector<double>{0, 1000}));
  EXPECT_EQ(CoarserUniform(TimeGroups::Uniform(1000, 10), 20).size(), 10);
  EXPECT_THROW(CoarserUniform(TimeGroups::Uniform(1000, 10), 0), Error);
}

TEST(TimeSegments, CoarserGroupsCoverEveryFineOneOnce) {
  for (int fine = 1; fine <= 30; ++fine) {
    for (int count = 1; count <= 30; ++count) {
      const TimeGroups coarse = CoarserUniform(TimeGroups::Uniform(1000, fine), count);
      EXPECT_LE(coarse.size(), std::min(fine, count));
      EXPECT_EQ(coarse.boundaries().front(), 0);
      EXPECT_EQ(coarse.boundaries().back(), 1000);
    }
  }
}

}  // namespace
}  // namespace arrow_quant
