#include "arrow_quant/numeric/significant_bits.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

namespace arrow_quant {
namespace {

// The number of binary digits from the leading to the last 1.
int SignificantBits(float x) {
  if (x == 0) return 0;
  int exponent = 0;
  const double mantissa = std::frexp(static_cast<double>(x), &exponent);
  const auto digits = static_cast<std::uint64_t>(std::ldexp(std::fabs(mantissa), 24));
  return 24 - std::countr_zero(digits);
}

// The distance between neighbouring values of `bits` digits in the binade of x.
double Spacing(float x, int bits) {
  int exponent = 0;
  std::frexp(static_cast<double>(x), &exponent);
  return std::ldexp(1.0, exponent - bits);
}

TEST(SignificantBits, KnownValues) {
  EXPECT_EQ(RoundToSignificantBits(1.25f, 2), 1.0f);  // a tie goes to the even digit
  EXPECT_EQ(RoundToSignificantBits(1.75f, 2), 2.0f);
  EXPECT_EQ(RoundToSignificantBits(1.26f, 2), 1.5f);
  EXPECT_EQ(RoundToSignificantBits(-1.25f, 2), -1.0f);
  EXPECT_EQ(RoundUpToSignificantBits(1.25f, 2), 1.5f);
  EXPECT_EQ(RoundUpToSignificantBits(-1.25f, 2), -1.5f);
  EXPECT_EQ(RoundUpToSignificantBits(1.5f, 2), 1.5f);
  EXPECT_EQ(RoundToSignificantBits(3.0f, 1), 4.0f);
  EXPECT_EQ(RoundToSignificantBits(1.2345678f, 24), 1.2345678f);
}

TEST(SignificantBits, RandomBitPatterns) {
  std::mt19937 rng(2);
  for (int trial = 0; trial < 200000; ++trial) {
    // Every fourth pattern is a denormal.
    const auto random = static_cast<std::uint32_t>(rng());
    const std::uint32_t pattern = trial % 4 == 0 ? random & 0x807fffffu : random;
    const float x = std::bit_cast<float>(pattern);
    if (!std::isfinite(x) || x == 0) continue;
    const int bits = 1 + trial % 24;
    const float nearest = RoundToSignificantBits(x, bits);
    const float up = RoundUpToSignificantBits(x, bits);
    ASSERT_TRUE(std::isfinite(nearest) && std::isfinite(up)) << x;
    if (std::fabs(x) > 1.5e38f) continue;  // may stay unrounded
    ASSERT_LE(SignificantBits(nearest), bits) << x;
    ASSERT_LE(SignificantBits(up), bits) << x;
    ASSERT_LE(std::fabs(static_cast<double>(nearest) - x), Spacing(x, bits) / 2) << x << " " << bits;
    ASSERT_GE(std::fabs(up), std::fabs(x));
    ASSERT_LT(std::fabs(static_cast<double>(up) - x), Spacing(x, bits)) << x << " " << bits;
    ASSERT_EQ(std::signbit(nearest), std::signbit(x));
    ASSERT_EQ(RoundToSignificantBits(nearest, bits), nearest);
    ASSERT_EQ(RoundUpToSignificantBits(up, bits), up);
  }
}

TEST(SignificantBits, EdgesStayWhatTheyAre) {
  const float largest = std::numeric_limits<float>::max();
  const float inf = std::numeric_limits<float>::infinity();
  for (int bits : {1, 6, 8, 23}) {
    EXPECT_EQ(RoundToSignificantBits(largest, bits), largest);
    EXPECT_EQ(RoundUpToSignificantBits(-largest, bits), -largest);
    EXPECT_EQ(RoundToSignificantBits(inf, bits), inf);
    EXPECT_TRUE(std::isnan(RoundUpToSignificantBits(std::nanf(""), bits)));
    EXPECT_TRUE(std::signbit(RoundUpToSignificantBits(-0.0f, bits)));
    EXPECT_EQ(RoundUpToSignificantBits(0.0f, bits), 0.0f);
    const float smallest = std::numeric_limits<float>::denorm_min();
    EXPECT_EQ(RoundToSignificantBits(smallest, bits), smallest);
  }
}

}  // namespace
}  // namespace arrow_quant
