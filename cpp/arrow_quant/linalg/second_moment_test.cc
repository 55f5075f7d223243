#include "arrow_quant/linalg/second_moment.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/numeric/convert.h"

namespace arrow_quant {
namespace {

// Small multiples of 1/8, which bfloat16 holds and whose products float32 adds without rounding.
std::vector<float> Eighths(std::int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = (static_cast<float>(engine() % 33) - 16.0F) / 8;
  return x;
}

std::vector<std::uint16_t> ToBF16(const std::vector<float>& x) {
  std::vector<std::uint16_t> out;
  for (const float v : x) out.push_back(FloatToBF16(v));
  return out;
}

// a^T b, exactly.
std::vector<float> Product(const std::vector<float>& a, const std::vector<float>& b, std::int64_t rows) {
  const auto n = static_cast<std::int64_t>(a.size()) / rows;
  const auto m = static_cast<std::int64_t>(b.size()) / rows;
  std::vector<float> out(static_cast<std::size_t>(n * m), 0.0F);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < m; ++j) {
        out[static_cast<std::size_t>(i * m + j)] +=
            a[static_cast<std::size_t>(r * n + i)] * b[static_cast<std::size_t>(r * m + j)];
      }
    }
  }
  return out;
}

TEST(SecondMoment, AddsExactSumsToTheUpperTriangle) {
  for (const std::int64_t cols : {1, 7, 530}) {
    const std::int64_t rows = 37;
    const std::vector<float> x = Eighths(rows * cols, 1);
    const std::vector<std::uint16_t> words = ToBF16(x);
    std::vector<float> expected = Product(x, x, rows);
    std::vector<float> h(expected.size(), 0.0F);
    AccumulateSecondMoment({x.data(), DType::kF32, rows, cols}, h.data(), 2);
    AccumulateSecondMoment({words.data(), DType::kBF16, rows, cols}, h.data(), 2);
    for (std::int64_t i = 0; i < cols; ++i) {
      for (std::int64_t j = 0; j < cols; ++j) {
        const auto at = static_cast<std::size_t>(i * cols + j);
        ASSERT_EQ(h[at], j < i ? 0.0F : 2 * expected[at]) << cols << " " << i << " " << j;
      }
    }
    MirrorUpper(h.data(), cols);
    for (std::size_t i = 0; i < h.size(); ++i) ASSERT_EQ(h[i], 2 * expected[i]);
  }
}

TEST(SecondMoment, ThreadsDoNotChangeBits) {
  std::mt19937 engine(2);
  std::normal_distribution<float> normal;
  const std::int64_t rows = 300;
  const std::int64_t cols = 1100;
  std::vector<float> x(static_cast<std::size_t>(rows * cols));
  for (float& v : x) v = normal(engine);
  std::vector<float> one(static_cast<std::size_t>(cols * cols), 0.0F);
  std::vector<float> two = one;
  AccumulateSecondMoment({x.data(), DType::kF32, rows, cols}, one.data(), 1);
  AccumulateSecondMoment({x.data(), DType::kF32, rows, cols}, two.data(), 2);
  EXPECT_EQ(one, two);
}

TEST(SecondMoment, CrossMomentIsTheProduct) {
  const std::int64_t rows = 19;
  const std::vector<float> a = Eighths(rows * 33, 3);
  const std::vector<float> b = Eighths(rows * 600, 4);
  const std::vector<std::uint16_t> words = ToBF16(b);
  std::vector<float> c(33 * 600, 0.0F);
  AccumulateCrossMoment({a.data(), DType::kF32, rows, 33}, {words.data(), DType::kBF16, rows, 600}, c.data(), 2);
  EXPECT_EQ(c, Product(a, b, rows));
}

TEST(SecondMoment, RefusesWhatDoesNotFit) {
  const float x[4] = {};
  float h[4] = {};
  EXPECT_THROW(AccumulateSecondMoment({x, DType::kF64, 1, 2}, h, 1), Error);
  EXPECT_THROW(AccumulateCrossMoment({x, DType::kF32, 1, 2}, {x, DType::kF32, 2, 2}, h, 1), Error);
}

}  // namespace
}  // namespace arrow_quant
