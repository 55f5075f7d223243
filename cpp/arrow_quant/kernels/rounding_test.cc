// The inner loops of rounding: every instruction set gives the bits of a plain loop.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "arrow_quant/kernels/kernels.h"

namespace arrow_quant {
namespace {

std::vector<float> Normal(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(engine);
  return x;
}

// A block of random columns with three groups, and the arrays behind it.
struct Sample {
  Sample(std::size_t count, std::size_t rows, int bits)
      : weight(Normal(count * rows, 1)),
        sum(Normal(count * rows, 2)),
        gain(Normal(count, 3)),
        coupling(Normal(count * (count + 3), 4)),
        group(count),
        scales(Normal(3 * rows, 5)),
        zero_points(Normal(3 * rows, 6)),
        residual_scales(3 * rows),
        error(Normal(count * rows, 7)),
        delta(count * rows),
        codes(count * rows) {
    for (std::size_t k = 0; k < count; ++k) group[k] = static_cast<std::int32_t>(k % 3);
    for (std::size_t i = 0; i < scales.size(); ++i) {
      scales[i] = std::fabs(scales[i]) + 0.01F;
      residual_scales[i] = scales[i] * 0.4F;
    }
    for (float& v : coupling) v *= 0.1F;
    block = {count,           rows,         (1 << bits) - 1, weight.data(), sum.data(),         gain.data(),
             coupling.data(), count + 3,    group.data(),    scales.data(), zero_points.data(), residual_scales.data(),
             error.data(),    delta.data(), codes.data()};
  }

  std::size_t GridAt(std::size_t k, std::size_t r) const { return static_cast<std::size_t>(group[k]) * block.rows + r; }

  std::vector<float> weight, sum, gain, coupling;
  std::vector<std::int32_t> group;
  std::vector<float> scales, zero_points, residual_scales, error, delta;
  std::vector<std::uint8_t> codes;
  RoundingBlock block{};
};

struct Rounded {
  std::uint8_t code;
  float value;
};

Rounded NearestAffine(const Sample& s, std::size_t k, std::size_t r, float target) {
  const float scale = s.scales[s.GridAt(k, r)];
  const float zero = s.zero_points[s.GridAt(k, r)];
  const float real = std::clamp(target / scale + zero, 0.0F, static_cast<float>(s.block.max_code));
  const float code = std::nearbyint(real);
  return {static_cast<std::uint8_t>(code), scale * (code - zero)};
}

float BinaryValue(const Sample& s, std::size_t k, std::size_t r, int code) {
  const std::size_t at = s.GridAt(k, r);
  const float half = code >= 2 ? s.zero_points[at] + s.scales[at] : s.zero_points[at] - s.scales[at];
  return code % 2 == 1 ? half + s.residual_scales[at] : half - s.residual_scales[at];
}

Rounded NearestBinary(const Sample& s, std::size_t k, std::size_t r, float target) {
  Rounded best{0, BinaryValue(s, k, r, 0)};
  for (int code = 1; code < 4; ++code) {
    const float value = BinaryValue(s, k, r, code);
    if (std::fabs(target - value) < std::fabs(target - best.value)) best = {static_cast<std::uint8_t>(code), value};
  }
  return best;
}

template <typename Nearest>
void Reference(Sample& s, Nearest nearest) {
  const std::size_t rows = s.block.rows;
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t k = 0; k < s.block.count; ++k) {
      const std::size_t at = k * rows + r;
      float sum = s.sum[at];
      for (std::size_t j = 0; j < k; ++j) sum += s.coupling[k * s.block.coupling_stride + j] * s.delta[j * rows + r];
      const Rounded rounded = nearest(s, k, r, (s.weight[at] - s.error[at]) + sum * s.gain[k]);
      const float after = s.weight[at] - rounded.value;
      s.delta[at] = after - s.error[at];
      s.error[at] = after;
      s.codes[at] = rounded.code;
    }
  }
}

void ExpectSame(const Sample& got, const Sample& want) {
  EXPECT_EQ(got.codes, want.codes);
  EXPECT_EQ(got.error, want.error);
  EXPECT_EQ(got.delta, want.delta);
}

class RoundingKernelTest : public testing::TestWithParam<Isa> {
 protected:
  const KernelTable& kernels_ = KernelsFor(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Isa, RoundingKernelTest, testing::ValuesIn(SupportedIsas()),
                         [](const auto& isa) { return std::string(IsaName(isa.param)); });

TEST_P(RoundingKernelTest, ColumnsAreRoundedWithFeedback) {
  for (const std::size_t count : {1UL, 2UL, 7UL, 63UL, 64UL}) {
    for (const int bits : {2, 3, 4, 8}) {
      Sample got(count, 96, bits);
      Sample want(count, 96, bits);
      kernels_.round_columns(got.block);
      Reference(want, NearestAffine);
      ExpectSame(got, want);
    }
    Sample got(count, 64, 2);
    Sample want(count, 64, 2);
    kernels_.round_columns_binary(got.block);
    Reference(want, NearestBinary);
    ExpectSame(got, want);
  }
}

TEST_P(RoundingKernelTest, ErrorsOfGivenCodes) {
  Sample s(100, 32, 2);
  std::mt19937 engine(8);
  for (auto& code : s.codes) code = static_cast<std::uint8_t>(engine() % 4);
  kernels_.column_errors(s.block);
  for (std::size_t i = 0; i < s.error.size(); ++i) {
    const std::size_t at = s.GridAt(i / 32, i % 32);
    ASSERT_EQ(s.error[i], s.weight[i] - s.scales[at] * (static_cast<float>(s.codes[i]) - s.zero_points[at]));
  }
  kernels_.column_errors_binary(s.block);
  for (std::size_t i = 0; i < s.error.size(); ++i) {
    ASSERT_EQ(s.error[i], s.weight[i] - BinaryValue(s, i / 32, i % 32, s.codes[i]));
  }
}

TEST_P(RoundingKernelTest, SumsDownColumns) {
  for (const std::size_t count : {0UL, 1UL, 5UL, 130UL}) {
    const std::size_t rows = 48;
    const std::vector<float> a = Normal(count * rows, 1);
    const std::vector<float> b = Normal(count * rows, 2);
    std::vector<double> products(rows);
    std::vector<double> sums(rows);
    kernels_.dot_columns(a.data(), b.data(), count, rows, products.data());
    kernels_.dot_columns(a.data(), nullptr, count, rows, sums.data());
    for (std::size_t r = 0; r < rows; ++r) {
      double product = 0;
      double sum = 0;
      for (std::size_t k = 0; k < count; ++k) {
        product += static_cast<double>(a[k * rows + r]) * static_cast<double>(b[k * rows + r]);
        sum += static_cast<double>(a[k * rows + r]);
      }
      ASSERT_EQ(products[r], product);
      ASSERT_EQ(sums[r], sum);
    }
  }
}

TEST_P(RoundingKernelTest, Subtractions) {
  const std::size_t count = 9;
  const std::size_t rows = 32;
  const std::vector<float> x = Normal(count * rows, 1);
  const std::vector<float> factor = Normal(rows, 2);
  const std::vector<float> y = Normal(count * rows, 3);
  std::vector<float> columns = y;
  std::vector<float> outer = y;
  kernels_.subtract_columns(x.data(), factor.data(), count, rows, columns.data());
  kernels_.subtract_outer(x.data(), factor.data(), count, rows, outer.data());
  for (std::size_t i = 0; i < y.size(); ++i) {
    ASSERT_EQ(columns[i], y[i] - factor[i % rows] * x[i]);
    ASSERT_EQ(outer[i], y[i] - factor[i % rows] * x[i / rows]);
  }
}

TEST_P(RoundingKernelTest, Lookup) {
  const float levels[4] = {-3, 0.5F, 2, 7};
  for (const std::size_t n : {0UL, 1UL, 15UL, 16UL, 17UL, 100UL}) {
    std::vector<std::uint8_t> codes(n);
    for (std::size_t i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(i * 7 % 4);
    std::vector<float> out(n + 1, 99.0F);
    kernels_.lookup4(codes.data(), n, levels, out.data());
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(out[i], levels[codes[i]]);
    ASSERT_EQ(out[n], 99.0F);
  }
}

TEST_P(RoundingKernelTest, MomentsOfSigns) {
  const std::size_t count = 21;
  const std::size_t rows = 32;
  const std::vector<float> w = Normal(count * rows, 1);
  const std::vector<float> g = {Normal(count, 2)};
  std::vector<float> grid = Normal(3 * rows, 3);
  for (std::size_t i = rows; i < grid.size(); ++i) grid[i] = std::fabs(grid[i]);
  std::vector<float> got(5 * rows);
  kernels_.binary_moments(w.data(), g.data(), count, rows, grid.data(), got.data());
  std::vector<float> want(5 * rows, 0.0F);
  for (std::size_t k = 0; k < count; ++k) {
    for (std::size_t r = 0; r < rows; ++r) {
      const float value = w[k * rows + r];
      const float b1 = value >= grid[r] ? 1.0F : -1.0F;
      const float b2 = value >= (b1 > 0 ? grid[r] + grid[rows + r] : grid[r] - grid[rows + r]) ? 1.0F : -1.0F;
      want[r] += g[k] * b1;
      want[rows + r] += g[k] * b2;
      want[2 * rows + r] += g[k] * b1 * b2;
      want[3 * rows + r] += g[k] * b1 * value;
      want[4 * rows + r] += g[k] * b2 * value;
    }
  }
  EXPECT_EQ(got, want);
}

}  // namespace
}  // namespace arrow_quant
