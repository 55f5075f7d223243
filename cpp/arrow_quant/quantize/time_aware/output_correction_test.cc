#include "arrow_quant/quantize/time_aware/output_correction.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace arrow_quant {
namespace {

constexpr std::int64_t kRows = 16;
constexpr std::int64_t kCols = 512;

AlignedVector<float> Normal(std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  AlignedVector<float> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(normal(random));
  return values;
}

// Inputs around `mean`, the same in all channels, with the deviation `spread`.
CorrectionSample Around(float mean, float spread, unsigned seed) {
  CorrectionSample sample;
  sample.mean.assign(kCols, mean);
  sample.fit_rows = Normal(64 * kCols, seed);
  sample.judge_rows = Normal(64 * kCols, seed + 1);
  for (AlignedVector<float>* rows : {&sample.fit_rows, &sample.judge_rows}) {
    for (float& x : *rows) x = mean + spread * x;
  }
  return sample;
}

struct Weights {
  AlignedVector<float> weight = Normal(kRows * kCols, 1);
  AlignedVector<float> quantized = weight;

  MatrixView<const float> w() const { return {weight.data(), kRows, kCols}; }
  MatrixView<const float> q() const { return {quantized.data(), kRows, kCols}; }
};

double Sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

TEST(OutputCorrection, TakesTheBiasOfShiftedInputs) {
  Weights weights;
  const AlignedVector<float> error = Normal(kRows * kCols, 2);
  for (std::size_t i = 0; i < error.size(); ++i) weights.quantized[i] += 0.1F * error[i];
  const CorrectionChoice choice = ChooseCorrection(weights.w(), weights.q(), {Around(3, 0.1F, 5), Around(0, 1, 8)});
  EXPECT_EQ(choice.kind, CorrectionKind::kBias);
  EXPECT_TRUE(choice.correction.gains.empty());
  ASSERT_EQ(choice.correction.biases.size(), 2U * kRows);
  double lost = 0;
  for (std::int64_t c = 0; c < kCols; ++c) lost += 3.0 * (weights.w().Row(0)[c] - weights.q().Row(0)[c]);
  EXPECT_NEAR(choice.correction.biases[0], lost, 0.01 * std::abs(lost));
  EXPECT_LT(choice.error_after[0], 0.1 * choice.error_before[0]);
  EXPECT_LE(choice.error_after[1], choice.error_before[1]);
  EXPECT_DOUBLE_EQ(choice.bits_per_weight, 16.0 * 2 / kCols);
}

TEST(OutputCorrection, TakesTheGainOfShrunkenWeights) {
  Weights weights;
  for (float& q : weights.quantized) q *= 0.8F;
  const CorrectionChoice choice = ChooseCorrection(weights.w(), weights.q(), {Around(0, 1, 5)});
  EXPECT_EQ(choice.kind, CorrectionKind::kGainAndBias);
  ASSERT_EQ(choice.correction.gains.size(), static_cast<std::size_t>(kRows));
  EXPECT_NEAR(choice.correction.gains[0], 1.25, 0.05);
  EXPECT_LT(Sum(choice.error_after), 0.05 * Sum(choice.error_before));
}

TEST(OutputCorrection, IsNotTakenWhereItDoesNotPay) {
  Weights weights;
  const AlignedVector<float> error = Normal(kRows * kCols, 2);
  for (std::size_t i = 0; i < error.size(); ++i) weights.quantized[i] += 0.1F * error[i];
  // The mean explains a few percent of the error, and many groups make the correction dear.
  const std::vector<CorrectionSample> samples(20, Around(0.2F, 1, 5));
  const CorrectionChoice choice = ChooseCorrection(weights.w(), weights.q(), samples);
  EXPECT_EQ(choice.kind, CorrectionKind::kNone);
  EXPECT_TRUE(choice.correction.empty());
  EXPECT_EQ(choice.error_after, choice.error_before);
  EXPECT_EQ(choice.bits_per_weight, 0);
}

TEST(OutputCorrection, NeverMakesAGroupWorse) {
  Weights weights;
  const AlignedVector<float> error = Normal(kRows * kCols, 2);
  for (std::size_t i = 0; i < error.size(); ++i) weights.quantized[i] += 0.1F * error[i];
  CorrectionSample misled = Around(0, 1, 11);
  misled.mean.assign(kCols, 5.0F);  // of rows unlike those that judge
  CorrectionSample unseen = Around(0, 1, 12);
  unseen.mean.clear();
  const CorrectionChoice choice =
      ChooseCorrection(weights.w(), weights.q(), {Around(3, 0.1F, 5), misled, unseen, CorrectionSample{}});
  ASSERT_EQ(choice.kind, CorrectionKind::kBias);
  for (std::size_t g = 0; g < 4; ++g) EXPECT_LE(choice.error_after[g], choice.error_before[g]) << g;
  for (std::size_t r = kRows; r < choice.correction.biases.size(); ++r) EXPECT_EQ(choice.correction.biases[r], 0) << r;
}

}  // namespace
}  // namespace arrow_quant
