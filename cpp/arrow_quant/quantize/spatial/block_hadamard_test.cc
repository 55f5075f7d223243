#include "arrow_quant/quantize/spatial/block_hadamard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace arrow_quant {
namespace {

std::vector<float> Normal(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

// By the definition: an entry of the Walsh-Hadamard matrix is minus where i and j share an odd number of bits.
std::vector<double> Reference(const std::vector<float>& row, const std::vector<float>& signs) {
  std::vector<double> out(row.size());
  std::size_t size = 64;
  for (std::size_t begin = 0; begin < row.size(); begin += size) {
    while (size > row.size() - begin) size /= 2;
    for (std::size_t i = 0; i < size; ++i) {
      for (std::size_t j = 0; j < size; ++j) {
        const double entry = std::popcount(i & j) % 2 == 0 ? 1 : -1;
        out[begin + i] += entry * static_cast<double>(signs[begin + j] * row[begin + j]);
      }
      out[begin + i] /= std::sqrt(static_cast<double>(size));
    }
  }
  return out;
}

class BlockHadamard : public testing::TestWithParam<std::int64_t> {};

TEST_P(BlockHadamard, IsTheDefinition) {
  const std::int64_t cols = GetParam();
  std::vector<float> row = Normal(static_cast<std::size_t>(cols), 1);
  const std::vector<double> want = Reference(row, RotationSigns(cols, 7));
  RotateRows({row.data(), 1, cols}, 7);
  for (std::size_t c = 0; c < row.size(); ++c) EXPECT_NEAR(row[c], want[c], 1e-5) << c;
}

TEST_P(BlockHadamard, IsUndone) {
  const std::int64_t cols = GetParam();
  const std::vector<float> before = Normal(static_cast<std::size_t>(3 * cols), 2);
  std::vector<float> rows = before;
  RotateRows({rows.data(), 3, cols}, 99);
  UnrotateRows({rows.data(), 3, cols}, 99);
  for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_NEAR(rows[i], before[i], 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Widths, BlockHadamard, testing::Values(1, 2, 3, 36, 64, 65, 100, 192, 255));

TEST(BlockHadamardSigns, DependOnTheSeedAndAreFixed) {
  const std::vector<float> signs = RotationSigns(1000, 1);
  EXPECT_NE(signs, RotationSigns(1000, 2));
  double sum = 0;
  for (const float s : signs) {
    EXPECT_EQ(std::abs(s), 1.0F);
    sum += static_cast<double>(s);
  }
  EXPECT_LT(std::abs(sum), 150);
}

TEST(BlockHadamard, SpreadsOneLargeChannel) {
  std::vector<float> row(64, 0.0F);
  row[5] = 8;
  RotateRows({row.data(), 1, 64}, 3);
  for (const float v : row) EXPECT_FLOAT_EQ(std::abs(v), 1.0F);
}

}  // namespace
}  // namespace arrow_quant
