#include "arrow_quant/orchestrate/activation_tables.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

namespace arrow_quant {
namespace {

constexpr std::int64_t kChannels = 96;
constexpr std::int64_t kOutputs = 24;

AlignedVector<float> Normal(std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  AlignedVector<float> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(normal(random));
  return values;
}

// Four groups over [0, 1000), inputs `loudness[g]` loud; `held_out` times as loud in the held-out rows.
LayerInputs MakeInputs(const std::vector<float>& loudness, float held_out = 1) {
  auto input = std::make_shared<InputStatistics>(
      kChannels, StatisticsOptions{.groups = static_cast<int>(loudness.size()), .held_out_rows = 32});
  for (std::size_t g = 0; g < loudness.size(); ++g) {
    if (loudness[g] == 0) continue;
    AlignedVector<float> rows = Normal(64 * kChannels, static_cast<unsigned>(g));
    for (float& x : rows) x *= loudness[g];
    const double time = 1000.0 * static_cast<double>(g) / static_cast<double>(loudness.size());
    input->Update({rows.data(), DType::kF32, 64, kChannels}, static_cast<int>(g), time, 1);
    for (float& x : rows) x *= held_out;
    input->HoldOut({rows.data(), DType::kF32, 32, kChannels}, static_cast<int>(g));
  }
  return {input};
}

ActivationOutcome Make(const LayerInputs& inputs, ActivationOptions options, bool time_aware = true) {
  const AlignedVector<float> weight = Normal(kOutputs * kChannels, 99);
  const TimeGroups seen = TimeGroups::Uniform(1000, inputs.front()->options().groups);
  return MakeActivationTable({weight.data(), kOutputs, kChannels}, inputs, {}, seen, {1, kChannels, 1}, options,
                             time_aware);
}

TEST(ActivationTables, TheNoisierHalfHasWideBlocks) {
  const ActivationOutcome made =
      Make(MakeInputs({0.1F, 0.5F, 2, 8}), {.time_groups = 4, .block_early = 96, .block_late = 32});
  EXPECT_EQ(made.report.method, "time_aware");
  EXPECT_TRUE(made.fallback_cause.empty());
  EXPECT_EQ(made.table.block_sizes, (std::vector<std::int64_t>{32, 32, 96, 96}));
  EXPECT_EQ(made.table.scales.size(), 3U + 3 + 1 + 1);
  EXPECT_EQ(made.table.zero_points.size(), made.table.scales.size());
  EXPECT_LT(made.table.scales.front(), made.table.scales.back());
  EXPECT_LT(made.report.error, made.report.shared_error);
  EXPECT_DOUBLE_EQ(made.report.bits_per_weight, 32.0 * 16 / (kOutputs * kChannels));
  EXPECT_EQ(made.report.ranges.size(), 4U);
}

TEST(ActivationTables, ScaledColumnsAreSeenAsTheLayerScalesThem) {
  const AlignedVector<float> weight = Normal(kOutputs * kChannels, 99);
  const LayerInputs inputs = MakeInputs({1, 2});
  std::vector<float> scales(kChannels, 1.0F);
  for (std::size_t c = 0; c < 32; ++c) scales[c] = 0.25F;
  const auto make = [&](const std::vector<float>& column_scales) {
    const ActivationOptions options{.time_groups = 2, .block_early = 32, .block_late = 32, .range = "min_max"};
    return MakeActivationTable({weight.data(), kOutputs, kChannels}, inputs, {.scales = column_scales},
                               TimeGroups::Uniform(1000, 2), {1, kChannels, 1}, options, true)
        .table;
  };
  const ActivationTable plain = make({});
  const ActivationTable scaled = make(scales);
  ASSERT_EQ(scaled.scales.size(), plain.scales.size());
  for (std::size_t i = 0; i < plain.scales.size(); ++i) {
    EXPECT_FLOAT_EQ(scaled.scales[i], plain.scales[i] * (i % 3 == 0 ? 0.25F : 1.0F)) << i;
    EXPECT_FLOAT_EQ(scaled.zero_points[i], plain.zero_points[i]) << i;
  }
}

TEST(ActivationTables, OneGroupIsOneRange) {
  for (const bool time_aware : {true, false}) {
    const ActivationOutcome made = Make(MakeInputs({0.1F, 8}), {.time_groups = time_aware ? 1 : 10}, time_aware);
    EXPECT_EQ(made.report.method, "shared");
    EXPECT_TRUE(made.fallback_cause.empty());
    EXPECT_EQ(made.table.boundaries, (std::vector<double>{0, 1000}));
    EXPECT_EQ(made.table.scales.size(), 1U);
    EXPECT_EQ(made.table.block_sizes.front(), kChannels);
  }
}

TEST(ActivationTables, FewerGroupsThanWereSeenAreMerged) {
  EXPECT_EQ(Make(MakeInputs({1, 2, 3, 4}), {.time_groups = 2}).table.boundaries, (std::vector<double>{0, 500, 1000}));
  EXPECT_EQ(Make(MakeInputs({1, 2, 3, 4}), {.time_groups = 50}).table.groups(), 4);
}

TEST(ActivationTables, AutomaticGroupsFollowTheRanges) {
  const ActivationOutcome made = Make(MakeInputs({1, 1, 1, 1, 1, 1, 20, 20}), {.time_groups = 8, .grouping = "auto"});
  EXPECT_EQ(made.table.boundaries[0], 0);
  EXPECT_NE(std::find(made.table.boundaries.begin(), made.table.boundaries.end(), 750), made.table.boundaries.end());
  EXPECT_LE(made.table.groups(), 4);
}

TEST(ActivationTables, AGroupThatWasNeverSeenTakesItsNeighbours) {
  const ActivationOutcome made =
      Make(MakeInputs({1, 0, 5, 5}), {.time_groups = 4, .block_early = 96, .block_late = 96, .range = "min_max"});
  EXPECT_EQ(made.table.scales[1], made.table.scales[0]);
}

TEST(ActivationTables, WorseThanSharedFallsBack) {
  // The quiet group is held out far louder than it was seen: its narrow range clips, the shared one does not.
  LayerInputs inputs = MakeInputs({0.01F, 8});
  auto loud = std::make_shared<InputStatistics>(*inputs.front());
  const AlignedVector<float> rows = Normal(32 * kChannels, 5);
  loud->Restore(0, loud->channel_moments(0), rows, 32);
  const ActivationOutcome made = Make({loud}, {.time_groups = 2, .range = "min_max"});
  EXPECT_EQ(made.report.method, "shared");
  EXPECT_NE(made.fallback_cause.find("held-out rows"), std::string::npos);
  EXPECT_EQ(made.table.groups(), 1);
}

std::vector<std::int64_t> LayoutOf(const std::vector<std::int64_t>& shape, bool transposed, std::int64_t inputs) {
  TensorInfo info;
  info.shape = shape;
  const InputLayout layout = InputLayoutOf(info, MatrixViewOf(shape, transposed), inputs);
  return {layout.inputs, layout.channels, layout.taps};
}

TEST(ActivationTables, TheLayoutFollowsTheShape) {
  EXPECT_EQ(LayoutOf({8, 6}, false, 1), (std::vector<std::int64_t>{1, 6, 1}));
  EXPECT_EQ(LayoutOf({8, 3, 3, 3}, false, 2), (std::vector<std::int64_t>{2, 3, 9}));
  EXPECT_EQ(LayoutOf({5, 8, 2, 2}, true, 1), (std::vector<std::int64_t>{1, 5, 4}));
}

TEST(ActivationTables, TheOldColumnHoldsTheUnionOfEachGroup) {
  ActivationTable table;
  table.layout = {1, 4, 1};
  table.boundaries = {0, 500, 1000};
  table.block_sizes = {2, 4};
  table.scales = {0.5F, 1, 2};
  table.zero_points = {255, 0, 51};
  const auto json = nlohmann::json::parse(TimeAwareJson(table));
  EXPECT_EQ(json["num_time_groups"], 2);
  EXPECT_EQ(json["time_group_params"][0]["time_range"], nlohmann::json({0, 500}));
  // [-127.5, 0] and [0, 255] together.
  EXPECT_FLOAT_EQ(json["time_group_params"][0]["scale"].get<float>(), 1.5F);
  EXPECT_FLOAT_EQ(json["time_group_params"][0]["zero_point"].get<float>(), 85);
  EXPECT_EQ(json["time_group_params"][1]["group_size"], 4);
}

}  // namespace
}  // namespace arrow_quant
