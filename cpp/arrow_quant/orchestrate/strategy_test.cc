#include "arrow_quant/orchestrate/strategy.h"

#include <gtest/gtest.h>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

const std::vector<GridKind> kAffineOnly = {GridKind::kAffine};
const std::vector<GridKind> kBothGrids = {GridKind::kResidualBinary, GridKind::kAffine};

TEST(Strategy, TextAndCodeAreR2qAndTimeAware) {
  for (const Modality modality : {Modality::kText, Modality::kCode}) {
    const Strategy strategy = ChooseStrategy(modality, {}, true);
    EXPECT_EQ(strategy.method, StrategyMethod::kR2q);
    EXPECT_TRUE(strategy.time_aware && strategy.time_aware_activations && strategy.error_feedback);
    EXPECT_FALSE(strategy.spatial);
    EXPECT_EQ(StrategyName(strategy), "R2Q + TimeAware");
    EXPECT_TRUE(strategy.notes.empty());
  }
}

TEST(Strategy, ImageAndAudioAreGptqAndSpatial) {
  for (const Modality modality : {Modality::kImage, Modality::kAudio}) {
    const Strategy strategy = ChooseStrategy(modality, {}, true);
    EXPECT_EQ(strategy.method, StrategyMethod::kGptq);
    EXPECT_TRUE(strategy.spatial && strategy.time_aware_activations && strategy.error_feedback);
    EXPECT_FALSE(strategy.time_aware);
    EXPECT_EQ(StrategyName(strategy), "GPTQ + Spatial");
  }
}

TEST(Strategy, EdgeImagesAreRoundedWithoutSpatial) {
  const Strategy strategy = ChooseStrategy(Modality::kImage, DiffusionQuantConfig::FromProfile("edge"), true);
  EXPECT_FALSE(strategy.spatial);
  EXPECT_TRUE(strategy.error_feedback);
  EXPECT_EQ(StrategyName(strategy), "GPTQ");
}

TEST(Strategy, EveryPartCanBeOverruled) {
  DiffusionQuantConfig config = DiffusionQuantConfig::FromProfile("edge");
  config.strategy = "r2q";
  config.strategy_time_aware = "always";
  config.strategy_spatial = "always";
  Strategy strategy = ChooseStrategy(Modality::kImage, config, true);
  EXPECT_EQ(StrategyName(strategy), "R2Q + TimeAware + Spatial");
  config.strategy_time_aware = "never";
  config.strategy_spatial = "never";
  config.rounding = "nearest";
  strategy = ChooseStrategy(Modality::kText, config, true);
  EXPECT_FALSE(strategy.time_aware || strategy.time_aware_activations || strategy.spatial || strategy.error_feedback);
  config.strategy = "none";
  config.rounding = "auto";
  strategy = ChooseStrategy(Modality::kText, config, true);
  EXPECT_EQ(StrategyName(strategy), "Nearest");
  config.rounding = "ldlq";
  EXPECT_TRUE(ChooseStrategy(Modality::kText, config, true).error_feedback);
}

TEST(Strategy, TheOlderSwitchesTurnPartsOff) {
  DiffusionQuantConfig config;
  config.enable_time_aware = false;
  config.enable_spatial = false;
  const Strategy text = ChooseStrategy(Modality::kText, config, true);
  EXPECT_FALSE(text.time_aware || text.time_aware_activations);
  EXPECT_FALSE(ChooseStrategy(Modality::kImage, config, true).spatial);
}

TEST(Strategy, WithoutActivationsItRoundsToNearestAndSaysSo) {
  const Strategy strategy = ChooseStrategy(Modality::kText, {}, false);
  EXPECT_FALSE(strategy.error_feedback || strategy.time_aware || strategy.time_aware_activations || strategy.spatial);
  EXPECT_EQ(strategy.notes.size(), 2U);
  EXPECT_EQ(StrategyName(strategy), "R2Q (nearest)");
}

TEST(Strategy, NoModalityIsRoundingOnly) {
  const Strategy strategy = ChooseStrategy(std::nullopt, {}, true);
  EXPECT_EQ(StrategyName(strategy), "GPTQ");
  EXPECT_FALSE(strategy.time_aware_activations);
}

TEST(Strategy, ResidualBinaryGridsAreForTwoBits) {
  DiffusionQuantConfig config;
  const Strategy text = ChooseStrategy(Modality::kText, config, true);
  EXPECT_EQ(AllowedGrids(text, 2), kBothGrids);
  EXPECT_EQ(AllowedGrids(text, 4), kAffineOnly);
  EXPECT_EQ(AllowedGrids(ChooseStrategy(Modality::kImage, config, true), 2), kAffineOnly);
  config.grid = "residual_binary";
  const Strategy image = ChooseStrategy(Modality::kImage, config, true);
  EXPECT_EQ(AllowedGrids(image, 2), std::vector<GridKind>{GridKind::kResidualBinary});
  EXPECT_EQ(AllowedGrids(image, 8), kAffineOnly);
  config.grid = "affine";
  EXPECT_EQ(AllowedGrids(ChooseStrategy(Modality::kText, config, true), 2), kAffineOnly);
}

TEST(Strategy, GridsAreFittedWhereThatWasMeasuredToWin) {
  DiffusionQuantConfig config;
  EXPECT_FALSE(UsesFittedGrid(ChooseStrategy(Modality::kImage, config, false)));
  EXPECT_TRUE(UsesFittedGrid(ChooseStrategy(Modality::kImage, config, true)));
  config.fit = "min_max";
  EXPECT_FALSE(UsesFittedGrid(ChooseStrategy(Modality::kImage, config, true)));
  config.fit = "fitted";
  EXPECT_TRUE(UsesFittedGrid(ChooseStrategy(Modality::kImage, config, false)));
}

}  // namespace
}  // namespace arrow_quant
