#include "arrow_quant/quantize/spatial/equalization.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "arrow_quant/quantize/spatial/noise_model.h"

namespace arrow_quant {
namespace {

using Floats = std::vector<float>;

TEST(Equalization, RanksShareTheirMean) {
  EXPECT_DOUBLE_EQ(RankCorrelation(Floats{1, 2, 3, 4}, Floats{10, 20, 30, 40}), 1);
  EXPECT_DOUBLE_EQ(RankCorrelation(Floats{1, 2, 3, 4}, Floats{4, 3, 2, 1}), -1);
  EXPECT_DOUBLE_EQ(RankCorrelation(Floats{1, 1, 1}, Floats{1, 2, 3}), 0);
  // scipy.stats.spearmanr([1, 2, 2, 5], [3, 1, 2, 9]) by ranks 0, 1.5, 1.5, 3 and 2, 0, 1, 3.
  EXPECT_NEAR(RankCorrelation(Floats{1, 2, 2, 5}, Floats{3, 1, 2, 9}), 0.31622776601683794, 1e-12);
}

TEST(Equalization, BalanceMakesBothSidesEqual) {
  const ChannelMagnitudes magnitudes{{{16, 1, 4}}, {1, 4, 1}};
  const Floats scales = BalanceScales(magnitudes);
  for (std::size_t c = 0; c < scales.size(); ++c) {
    // e x over w / e is the same for every channel.
    const float ratio = magnitudes.inputs[0][c] * scales[c] * scales[c] / magnitudes.weight[c];
    const float first = magnitudes.inputs[0][0] * scales[0] * scales[0] / magnitudes.weight[0];
    EXPECT_NEAR(ratio / first, 1, 0.02) << c;
  }
  EXPECT_EQ(*std::min_element(scales.begin(), scales.end()), 1.0F);
}

TEST(Equalization, BalanceListensToTheGroupsThatDoNotFollowTheWeight) {
  // Both groups have channels of 1 and 9; the second has them the other way round than the weight.
  const Floats alike = BalanceScales({{{1, 9}, {1, 9}}, {1, 4}});
  const Floats mixed = BalanceScales({{{1, 9}, {9, 1}}, {1, 4}});
  EXPECT_GT(alike[0] / alike[1], mixed[0] / mixed[1] * 2);
}

TEST(Equalization, MigrationGoesFromTheWeightToTheInput) {
  const ChannelMagnitudes magnitudes{{{2, 1}, {8, 1}}, {1, 4}};
  const Floats weight = MigrationScales(magnitudes, 0);
  const Floats input = MigrationScales(magnitudes, 1);
  EXPECT_NEAR(weight[1] / weight[0], 4, 0.05);
  EXPECT_NEAR(input[1] / input[0], 8, 0.1);  // of the largest over time groups
  EXPECT_EQ(MigrationGrid().size(), 21U);
  EXPECT_DOUBLE_EQ(MigrationGrid()[9], 0.45);
}

TEST(Equalization, DeadChannelsAndExtremesStayFinite) {
  const ChannelMagnitudes magnitudes{{{0, 1e30F, 1e-30F, 1}}, {1, 1, 1, 0}};
  for (const Floats& scales : {BalanceScales(magnitudes), MigrationScales(magnitudes, 0.5)}) {
    EXPECT_EQ(scales[0], scales[3]);
    for (const float s : scales) {
      EXPECT_GE(s, 1.0F);
      EXPECT_LE(s, 64.0F * 64);
    }
  }
}

TEST(Equalization, EveryTapHasItsChannelsScale) {
  EXPECT_EQ(SpreadOverTaps(Floats{1, 2}, 3), (Floats{1, 1, 1, 2, 2, 2}));
}

// Against noise that is really made.
TEST(NoiseModel, IsTheNoiseOfRounding) {
  const Floats weight = {1, 0.5F, -0.25F, 2};  // [2, 2]
  const Floats energy = {4, 1};
  const LayerNoise layer{{weight.data(), 2, 2}, 1, energy, 2, 4};
  const std::vector<InputExtremes> inputs = {{{-4, -1}, {4, 1}, 1, 2}};
  const Floats ones = {1, 1};
  // Input: step 8 / 255; |W_c|^2 = 1.0625 and 4.25. Weight: steps 1 / 15 and 2.25 / 15, energy 5.
  const double input = 64.0 / (255.0 * 255.0) / 12 * (1.0625 + 4.25);
  const double rounding = (1.0 + 2.25 * 2.25) / 225 / 12 * 5;
  EXPECT_NEAR(ExpectedNoise(layer, inputs, ones), input + rounding, 1e-9);
}

TEST(NoiseModel, AnOutlierIsWorthEqualizing) {
  const Floats weight(8, 1.0F);  // [1, 8]
  const Floats energy(8, 1.0F);
  const LayerNoise layer{{weight.data(), 1, 8}, 1, energy, 8, 8};
  InputExtremes input{Floats(8, -1.0F), Floats(8, 1.0F), 1, 8};
  input.max[3] = 100;
  Floats scales(8, 1.0F);
  const double plain = ExpectedNoise(layer, {&input, 1}, scales);
  scales[3] = 0.125F;
  EXPECT_LT(ExpectedNoise(layer, {&input, 1}, scales), plain / 5);
}

}  // namespace
}  // namespace arrow_quant
