#include "arrow_quant/calibrate/time_groups.h"

#include <gtest/gtest.h>

#include <limits>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

TEST(TimeGroups, UniformBoundariesAreEqualParts) {
  const TimeGroups groups = TimeGroups::Uniform(1000, 10);
  ASSERT_EQ(groups.size(), 10);
  EXPECT_EQ(groups.boundaries()[3], 300);
  EXPECT_EQ(groups.Of(0), 0);
  EXPECT_EQ(groups.Of(99.5), 0);
  EXPECT_EQ(groups.Of(100), 1);
  EXPECT_EQ(groups.Of(999), 9);
}

TEST(TimeGroups, FewerStepsThanGroupsClampTheGroups) {
  EXPECT_EQ(TimeGroups::Uniform(4, 10, 4).size(), 4);
  EXPECT_EQ(TimeGroups::Uniform(1, 10).size(), 10);
}

TEST(TimeGroups, TimesOutsideBelongToTheNearestGroup) {
  const TimeGroups groups = TimeGroups::Uniform(1, 4);
  EXPECT_EQ(groups.Of(-3), 0);
  EXPECT_EQ(groups.Of(1), 3);
  EXPECT_EQ(groups.Of(std::numeric_limits<double>::infinity()), 3);
  EXPECT_EQ(groups.Of(std::numeric_limits<double>::quiet_NaN()), 3);
}

TEST(TimeGroups, RefusesBoundariesThatDoNotAscend) {
  EXPECT_THROW(TimeGroups({0}), Error);
  EXPECT_THROW(TimeGroups({0, 0}), Error);
  EXPECT_THROW(TimeGroups({0, std::numeric_limits<double>::quiet_NaN()}), Error);
  EXPECT_THROW(TimeGroups::Uniform(0, 3), Error);
  EXPECT_THROW(TimeGroups::Uniform(1, 0), Error);
}

}  // namespace
}  // namespace arrow_quant
