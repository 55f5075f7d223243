#include "arrow_quant/calibrate/time_weights.h"

#include <gtest/gtest.h>

#include <numeric>

namespace arrow_quant {
namespace {

double Sum(const std::vector<double>& weights) { return std::accumulate(weights.begin(), weights.end(), 0.0); }

TEST(TimeWeights, FollowTheSensitivityWithinTheLargestRatio) {
  const std::vector<double> weights = SensitivityWeights(std::vector<double>{0.0002, 0.1, 0.2, 0.4});
  ASSERT_EQ(weights.size(), 4U);
  EXPECT_NEAR(Sum(weights), 4, 1e-12);
  EXPECT_NEAR(weights[3] / weights[0], kLargestTimeRatio, 1e-12);
  EXPECT_NEAR(weights[3] / weights[1], 4, 1e-12);
  EXPECT_NEAR(weights[2] / weights[1], 2, 1e-12);
}

TEST(TimeWeights, AreEqualWhereNothingMatters) {
  EXPECT_EQ(SensitivityWeights(std::vector<double>{0, 0}), (std::vector<double>{1, 1}));
  EXPECT_TRUE(SensitivityWeights({}).empty());
}

TEST(TimeWeights, OfDetailFavourTheLeastNoisyThird) {
  const std::vector<double> weights = DetailWeights(10);
  EXPECT_NEAR(Sum(weights), 10, 1e-12);
  EXPECT_NEAR(weights[2] / weights[3], kLargestTimeRatio, 1e-12);
  EXPECT_EQ(weights[0], weights[2]);
  EXPECT_EQ(weights[3], weights[9]);
  EXPECT_EQ(DetailWeights(1), std::vector<double>{1});
}

}  // namespace
}  // namespace arrow_quant
