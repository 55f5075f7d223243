#include "arrow_quant/quantize/time_aware/activation_ranges.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>

namespace arrow_quant {
namespace {

constexpr std::array kAll = {RangeMethod::kMinMax, RangeMethod::kPercentile, RangeMethod::kMse};

struct Layer {
  InputLayout layout;
  AlignedVector<float> weight;
  GroupSample sample;

  MatrixView<const float> w() const {
    return {weight.data(), static_cast<std::int64_t>(weight.size()) / layout.Columns(), layout.Columns()};
  }
};

// Normal values, channel c of standard deviation `spread(c)`.
template <typename Spread>
Layer MakeLayer(const InputLayout& layout, std::int64_t outputs, const Spread& spread) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  Layer layer{layout, {}, {}};
  const std::int64_t columns = layout.Columns();
  for (std::int64_t i = 0; i < outputs * columns; ++i) layer.weight.push_back(normal(random));
  for (std::int64_t i = 0; i < layout.inputs; ++i) {
    InputSample sample;
    sample.count = 64;
    sample.min.assign(static_cast<std::size_t>(columns), 0);
    sample.max.assign(static_cast<std::size_t>(columns), 0);
    for (int r = 0; r < 64; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) {
        const float x = normal(random) * spread(c / layout.taps);
        (r % 2 == 0 ? sample.fit_rows : sample.judge_rows).push_back(x);
        const auto at = static_cast<std::size_t>(c);
        sample.min[at] = std::min(sample.min[at], x);
        sample.max[at] = std::max(sample.max[at], x);
      }
    }
    layer.sample.push_back(std::move(sample));
  }
  return layer;
}

TEST(ActivationRanges, MinMaxIsTheFormula) {
  Layer layer = MakeLayer({1, 4, 1}, 3, [](std::int64_t) { return 1.0F; });
  layer.sample[0].min = {-1, -2, 0.5F, 0.25F};
  layer.sample[0].max = {3, 1, 0.75F, 2};
  const GroupRanges ranges = FitRanges(RangeMethod::kMinMax, layer.sample, layer.layout, 2, layer.w());
  ASSERT_EQ(ranges.scales.size(), 2U);
  EXPECT_FLOAT_EQ(ranges.scales[0], 5.0F / 255);
  EXPECT_FLOAT_EQ(ranges.zero_points[0], 2 / (5.0F / 255));
  // A range holds 0, however far the values are from it.
  EXPECT_FLOAT_EQ(ranges.scales[1], 2.0F / 255);
  EXPECT_EQ(ranges.zero_points[1], 0);
}

TEST(ActivationRanges, AreValidForAnyInput) {
  Layer layer = MakeLayer({2, 5, 3}, 4, [](std::int64_t) { return 1.0F; });
  for (const float value : {0.0F, 1e-30F, -1e30F, 7.0F}) {
    for (InputSample& sample : layer.sample) {
      std::fill(sample.min.begin(), sample.min.end(), value);
      std::fill(sample.max.begin(), sample.max.end(), value);
      std::fill(sample.fit_rows.begin(), sample.fit_rows.end(), value);
    }
    for (const RangeMethod method : kAll) {
      const GroupRanges ranges = FitRanges(method, layer.sample, layer.layout, 2, layer.w());
      ASSERT_EQ(ranges.scales.size(), 6U);
      for (std::size_t i = 0; i < ranges.scales.size(); ++i) {
        EXPECT_TRUE(std::isfinite(ranges.scales[i]) && ranges.scales[i] > 0);
        EXPECT_TRUE(ranges.zero_points[i] >= 0 && ranges.zero_points[i] <= 255);
      }
    }
  }
}

TEST(ActivationRanges, BlocksBeatOneRangeForLoudAndQuietChannels) {
  const Layer layer = MakeLayer({1, 128, 1}, 16, [](std::int64_t c) { return c < 64 ? 0.05F : 5.0F; });
  const auto error = [&](std::int64_t block) {
    return OutputErrorOf(FitRanges(RangeMethod::kMinMax, layer.sample, layer.layout, block, layer.w()), layer.sample,
                         layer.layout, layer.w());
  };
  EXPECT_LT(error(64), 0.6 * error(128));
}

TEST(ActivationRanges, ErrorIsTheStepsVariance) {
  const Layer layer = MakeLayer({1, 64, 1}, 16, [](std::int64_t) { return 1.0F; });
  const GroupRanges ranges = FitRanges(RangeMethod::kMinMax, layer.sample, layer.layout, 64, layer.w());
  double energy = 0;
  for (const float w : layer.weight) energy += static_cast<double>(w) * static_cast<double>(w);
  const double step = ranges.scales[0];
  // Uniform rounding errors over 2048 values: within a tenth.
  EXPECT_NEAR(OutputErrorOf(ranges, layer.sample, layer.layout, layer.w()) / (energy * step * step / 12), 1, 0.1);
}

TEST(ActivationRanges, ClippingHasToPay) {
  Layer layer = MakeLayer({1, 64, 1}, 16, [](std::int64_t) { return 1.0F; });
  EXPECT_EQ(ChooseRanges(kAll, layer.sample, layer.layout, 64, layer.w()).method, RangeMethod::kMinMax);
  // An extreme that was seen once and is in no judged row makes the steps of all other values coarse.
  layer.sample[0].max[0] = 2000;
  const RangeChoice best = ChooseRanges(kAll, layer.sample, layer.layout, 64, layer.w());
  EXPECT_NE(best.method, RangeMethod::kMinMax);
  const GroupRanges plain = FitRanges(RangeMethod::kMinMax, layer.sample, layer.layout, 64, layer.w());
  EXPECT_LT(best.error, kClippingGain * OutputErrorOf(plain, layer.sample, layer.layout, layer.w()));
}

TEST(ActivationRanges, WithoutHeldOutRowsTheFirstMethodIsMinMax) {
  Layer layer = MakeLayer({1, 8, 1}, 4, [](std::int64_t) { return 1.0F; });
  layer.sample[0].fit_rows.clear();
  layer.sample[0].judge_rows.clear();
  const GroupRanges plain = FitRanges(RangeMethod::kMinMax, layer.sample, layer.layout, 4, layer.w());
  for (const RangeMethod method : kAll) {
    EXPECT_EQ(FitRanges(method, layer.sample, layer.layout, 4, layer.w()).scales, plain.scales);
  }
  EXPECT_EQ(ChooseRanges(kAll, layer.sample, layer.layout, 4, layer.w()).method, RangeMethod::kMinMax);
  EXPECT_EQ(OutputEnergyOf(layer.sample, layer.layout, layer.w()), 0);
}

TEST(ActivationRanges, MergedSamplesSpanBoth) {
  const Layer a = MakeLayer({1, 8, 1}, 4, [](std::int64_t) { return 1.0F; });
  const Layer b = MakeLayer({1, 8, 1}, 4, [](std::int64_t) { return 9.0F; });
  const std::array both = {a.sample, GroupSample(1), b.sample};
  const GroupSample merged = MergeSamples(both);
  EXPECT_EQ(merged[0].count, 128);
  EXPECT_EQ(merged[0].judge_rows.size(), 2 * a.sample[0].judge_rows.size());
  EXPECT_EQ(merged[0].max[3], std::max(a.sample[0].max[3], b.sample[0].max[3]));
}

}  // namespace
}  // namespace arrow_quant
