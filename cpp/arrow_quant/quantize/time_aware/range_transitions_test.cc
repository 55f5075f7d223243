#include "arrow_quant/quantize/time_aware/range_transitions.h"

#include <gtest/gtest.h>

#include <cmath>

namespace arrow_quant {
namespace {

// Two fine groups and a coarse one, 128 channels; ranges [-1, 1], [-1, 1], [-4, 4].
ActivationTable Example() {
  ActivationTable table;
  table.layout = {1, 128, 1};
  table.boundaries = {0, 300, 600, 1000};
  table.block_sizes = {64, 64, 128};
  table.scales = {2 / 255.0F, 2 / 255.0F, 2 / 255.0F, 2 / 255.0F, 8 / 255.0F};
  table.zero_points = {127.5F, 127.5F, 127.5F, 127.5F, 127.5F};
  return table;
}

TEST(RangeTransitions, JumpsAreRelative) {
  const std::vector<double> jumps = RangeJumps(Example());
  ASSERT_EQ(jumps.size(), 2U);
  EXPECT_NEAR(jumps[0], 0, 1e-6);
  EXPECT_NEAR(jumps[1], 0.75, 1e-6);
}

TEST(RangeTransitions, SmoothedBoundariesGoOverInSteps) {
  for (const Interpolation kind : {Interpolation::kLinear, Interpolation::kCubic, Interpolation::kSigmoid}) {
    const ActivationTable smooth = SmoothBoundaries(Example(), 2, kind);
    ASSERT_EQ(smooth.groups(), 3 + 2 * 4);
    ASSERT_EQ(smooth.boundaries.size(), 12U);
    EXPECT_EQ(smooth.boundaries.front(), 0);
    EXPECT_EQ(smooth.boundaries.back(), 1000);
    for (std::size_t i = 0; i + 1 < smooth.boundaries.size(); ++i) {
      EXPECT_LT(smooth.boundaries[i], smooth.boundaries[i + 1]);
    }
    EXPECT_DOUBLE_EQ(smooth.boundaries[6], 598);
    EXPECT_DOUBLE_EQ(smooth.boundaries[7], 599);
    EXPECT_DOUBLE_EQ(smooth.boundaries[10], 602);
    // Steps have the finer blocks, and ascend from one group's range to the other's.
    double before = 2 / 255.0;
    for (std::size_t g = 6; g < 10; ++g) {
      EXPECT_EQ(smooth.block_sizes[g], 64);
      const auto scale = static_cast<double>(smooth.scales[2 * g]);
      EXPECT_GT(scale, before);
      EXPECT_LT(scale, 8 / 255.0);
      EXPECT_FLOAT_EQ(smooth.zero_points[2 * g], 127.5F);
      before = scale;
    }
    EXPECT_FLOAT_EQ(smooth.scales.back(), 8 / 255.0F);
  }
}

TEST(RangeTransitions, LinearStepsAreEquallyHigh) {
  const ActivationTable smooth = SmoothBoundaries(Example(), 1, Interpolation::kLinear);
  EXPECT_NEAR(static_cast<double>(smooth.scales[2 * 4]), (2 + 0.25 * 6) / 255, 1e-6);
  EXPECT_NEAR(static_cast<double>(smooth.scales[2 * 5]), (2 + 0.75 * 6) / 255, 1e-6);
}

TEST(RangeTransitions, WindowsEndHalfwayIntoAGroup) {
  ActivationTable table = Example();
  table.boundaries = {0, 10, 20, 1000};
  const ActivationTable smooth = SmoothBoundaries(table, 20, Interpolation::kLinear);
  for (std::size_t i = 0; i + 1 < smooth.boundaries.size(); ++i) {
    EXPECT_LT(smooth.boundaries[i], smooth.boundaries[i + 1]);
  }
  EXPECT_EQ(smooth.boundaries.size(), smooth.block_sizes.size() + 1);
  EXPECT_EQ(smooth.boundaries.back(), 1000);
}

TEST(RangeTransitions, OneGroupStaysAsItIs) {
  ActivationTable table = Example();
  table.boundaries = {0, 1000};
  table.block_sizes = {128};
  table.scales = {0.5F};
  table.zero_points = {10};
  EXPECT_TRUE(RangeJumps(table).empty());
  const ActivationTable smooth = SmoothBoundaries(table, 5, Interpolation::kCubic);
  EXPECT_EQ(smooth.boundaries, table.boundaries);
  EXPECT_FLOAT_EQ(smooth.scales[0], 0.5F);
  EXPECT_EQ(JumpPenaltyFactors(table, {}), std::vector<double>{1});
}

TEST(RangeTransitions, ThePenaltyWidensNarrowNeighboursOnly) {
  for (const BetaSchedule schedule : {BetaSchedule::kLinear, BetaSchedule::kCosine}) {
    const std::vector<double> factors =
        JumpPenaltyFactors(Example(), {.markov_weight = 2, .learning_rate = 0.1, .schedule = schedule});
    EXPECT_GT(factors[1], 1.05);
    EXPECT_LT(factors[1], 4);
    EXPECT_GE(factors[0], 1);
    EXPECT_EQ(factors[2], 1);
    const ActivationTable damped = Stretched(Example(), factors);
    EXPECT_LT(RangeJumps(damped)[1], RangeJumps(Example())[1]);
    EXPECT_FLOAT_EQ(damped.scales[4], Example().scales[4]);
  }
  const std::vector<double> none = JumpPenaltyFactors(Example(), {.markov_weight = 0, .entropy_weight = 0});
  for (const double factor : none) EXPECT_EQ(factor, 1);
}

}  // namespace
}  // namespace arrow_quant
