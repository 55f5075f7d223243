#include "arrow_quant/quantize/rounding/target_correction.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "arrow_quant/quantize/rounding/measure_output.h"

namespace arrow_quant {
namespace {

std::vector<float> Normal(std::size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(generator);
  return values;
}

// Inputs of a float model, and what a linear change with some noise makes of them.
struct Pair {
  static constexpr std::int64_t kRows = 400;
  static constexpr std::int64_t kCols = 24;
  std::vector<float> reference = Normal(kRows * kCols, 1);
  std::vector<float> own;
  std::vector<float> hessian = std::vector<float>(kCols * kCols);
  std::vector<float> drift = std::vector<float>(kCols * kCols);

  explicit Pair(float noise) : own(reference) {
    const std::vector<float> change = Normal(kCols * kCols, 2);
    const std::vector<float> extra = Normal(own.size(), 3);
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t c = 0; c < kCols; ++c) {
        float sum = 0;
        for (std::size_t k = 0; k < kCols; ++k) sum += reference[r * kCols + k] * change[k * kCols + c];
        own[r * kCols + c] += 0.03F * sum + noise * extra[r * kCols + c];
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t i = 0; i < kCols; ++i) {
        for (std::size_t j = 0; j < kCols; ++j) {
          const float x = own[r * kCols + j] / kRows;
          hessian[i * kCols + j] += own[r * kCols + i] * x;
          drift[i * kCols + j] += (reference[r * kCols + i] - own[r * kCols + i]) * x;
        }
      }
    }
  }

  double Error(const std::vector<float>& weight, const float* target) const {
    const auto rows = static_cast<std::int64_t>(weight.size()) / kCols;
    return MeasureOutputAgainst({weight.data(), rows, kCols}, {target, rows, kCols}, reference.data(), own.data(),
                                kRows, 1)
        .ee;
  }
};

TEST(CorrectTarget, UndoesALinearChange) {
  const Pair pair(0);
  const std::vector<float> weight = Normal(6 * Pair::kCols, 4);
  const auto target = CorrectTarget({weight.data(), 6, Pair::kCols}, pair.hessian.data(), pair.drift.data(), 0, 1);
  ASSERT_EQ(target.size(), weight.size());
  EXPECT_LT(pair.Error(weight, target.data()), 1e-6 * pair.Error(weight, weight.data()));
}

// The closed form is the least squares solution: no small step away from it is better.
TEST(CorrectTarget, IsALeastSquaresSolution) {
  const Pair pair(0.1F);
  const std::vector<float> weight = Normal(3 * Pair::kCols, 5);
  auto target = CorrectTarget({weight.data(), 3, Pair::kCols}, pair.hessian.data(), pair.drift.data(), 0, 1);
  const double least = pair.Error(weight, target.data());
  EXPECT_LT(least, pair.Error(weight, weight.data()));
  for (std::size_t i = 0; i < target.size(); i += 7) {
    for (const float step : {-0.01F, 0.01F}) {
      target[i] += step;
      EXPECT_GT(pair.Error(weight, target.data()), least);
      target[i] -= step;
    }
  }
}

TEST(CorrectTarget, LeavesTheWeightWithoutDriftOrActivations) {
  const Pair pair(0.1F);
  const std::vector<float> weight = Normal(2 * Pair::kCols, 6);
  const std::vector<float> zero(pair.drift.size());
  for (const float* hessian : {pair.hessian.data(), zero.data()}) {
    const auto target = CorrectTarget({weight.data(), 2, Pair::kCols}, hessian, zero.data(), 0.01, 1);
    for (std::size_t i = 0; i < weight.size(); ++i) EXPECT_EQ(target[i], weight[i]);
  }
}

TEST(CorrectTarget, ThreadsDoNotChangeBits) {
  const Pair pair(0.1F);
  const std::vector<float> weight = Normal(200 * Pair::kCols, 7);
  const MatrixView<const float> view(weight.data(), 200, Pair::kCols);
  EXPECT_EQ(CorrectTarget(view, pair.hessian.data(), pair.drift.data(), 0.01, 1),
            CorrectTarget(view, pair.hessian.data(), pair.drift.data(), 0.01, 2));
}

TEST(CorrectTarget, GivesUpOnASingularMoment) {
  const std::vector<float> hessian = {1, 2, 2, 1};
  const std::vector<float> weight = {1, 1};
  EXPECT_TRUE(CorrectTarget({weight.data(), 1, 2}, hessian.data(), hessian.data(), 0, 1).empty());
}

}  // namespace
}  // namespace arrow_quant
