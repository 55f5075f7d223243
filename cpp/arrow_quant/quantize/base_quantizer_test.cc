#include "arrow_quant/quantize/base_quantizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

std::vector<float> Gaussian(std::int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::vector<float> w(static_cast<std::size_t>(n));
  for (float& v : w) v = normal(engine);
  return w;
}

std::vector<float> RoundTrip(const std::vector<float>& w, std::int64_t rows, const BaseOptions& options) {
  const std::int64_t cols = static_cast<std::int64_t>(w.size()) / rows;
  const QuantizedMatrix q = QuantizeBase({w.data(), rows, cols}, options);
  std::vector<float> out(w.size());
  DequantizeRows(q, 0, rows, out.data());
  return out;
}

TEST(BaseQuantizer, MinMaxErrorIsAtMostHalfAStep) {
  for (int bits : {2, 3, 4, 8}) {
    for (std::int64_t group : {16L, 64L, 128L, -1L}) {
      const std::int64_t rows = 9;
      const std::int64_t cols = 150;  // a tail group for every size
      const std::vector<float> w = Gaussian(rows * cols, 3);
      const QuantizedMatrix q = QuantizeBase({w.data(), rows, cols}, {.bits = bits, .group_size = group});
      std::vector<float> out(w.size());
      DequantizeRows(q, 0, rows, out.data());
      for (std::size_t i = 0; i < w.size(); ++i) {
        const std::size_t row = i / 150;
        const std::size_t g = (i % 150) / static_cast<std::size_t>(q.group_size);
        const float step = q.scales[row * static_cast<std::size_t>(q.groups()) + g];
        // A thousandth of a step for the float rounding of the quotient and the product.
        EXPECT_LE(std::abs(w[i] - out[i]), 0.501F * step) << bits << " " << group << " " << i;
      }
    }
  }
}

TEST(BaseQuantizer, ConstantGroupsAreExact) {
  for (float value : {0.0F, 1.0F, -3.7F, 1e-40F, 1e30F, 123456.789F}) {
    const std::vector<float> w(32, value);
    EXPECT_EQ(RoundTrip(w, 2, {.bits = 2, .group_size = 16}), w);
  }
}

TEST(BaseQuantizer, ExtremesStayFinite) {
  const float max = std::numeric_limits<float>::max();
  const std::vector<float> w = {-max, max, 0, 1, 1e30F, -1e30F, 5e-41F, 1e-40F, 2e-40F, 3e-40F, 0, 1e-45F, 1000.0F, 1000.1F, 999.9F, 1000.05F};
  for (GridFit fit : {GridFit::kMinMax, GridFit::kFitted}) {
    for (int bits : {2, 4, 8}) {
      for (float v : RoundTrip(w, 4, {.bits = bits, .group_size = -1, .fit = fit})) EXPECT_TRUE(std::isfinite(v));
    }
  }
}

TEST(BaseQuantizer, AnExactlyRepresentableRangeIsReproduced) {
  std::vector<float> w(64);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 16) - 8.0F;
  EXPECT_EQ(RoundTrip(w, 1, {.bits = 4, .group_size = 64}), w);
  EXPECT_EQ(RoundTrip(w, 1, {.bits = 4, .group_size = 64, .fit = GridFit::kFitted}), w);
}

TEST(BaseQuantizer, FittedIsNeverWorseThanMinMax) {
  const std::vector<float> w = Gaussian(64 * 64, 5);
  for (int bits : {2, 3, 4}) {
    double error[2] = {0, 0};
    for (int fit = 0; fit < 2; ++fit) {
      const auto out = RoundTrip(w, 64, {.bits = bits, .group_size = 64, .fit = static_cast<GridFit>(fit)});
      for (std::size_t i = 0; i < w.size(); ++i) error[fit] += std::pow(static_cast<double>(w[i] - out[i]), 2);
    }
    EXPECT_LT(error[1], error[0]);
  }
}

TEST(BaseQuantizer, ThreadsDoNotChangeBytes) {
  const std::vector<float> w = Gaussian(333 * 77, 7);
  const BaseOptions options{.bits = 3, .group_size = 32, .fit = GridFit::kFitted};
  const QuantizedMatrix one = QuantizeBase({w.data(), 333, 77}, options, 1);
  const QuantizedMatrix two = QuantizeBase({w.data(), 333, 77}, options, 2);
  EXPECT_EQ(one.codes, two.codes);
  EXPECT_EQ(one.scales, two.scales);
  EXPECT_EQ(one.zero_points, two.zero_points);
}

TEST(BaseQuantizer, NonFiniteNamesTheIndex) {
  std::vector<float> w = Gaussian(64, 1);
  w[37] = std::numeric_limits<float>::quiet_NaN();
  try {
    RoundTrip(w, 4, {.bits = 4, .group_size = 16});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kQuantization);
    EXPECT_NE(std::string(e.what()).find("37"), std::string::npos) << e.what();
  }
}

TEST(BaseQuantizer, RefusesOtherWidths) {
  EXPECT_THROW(CheckBaseOptions({.bits = 5}), Error);
  EXPECT_THROW(CheckBaseOptions({.bits = 4, .group_size = 0}), Error);
}

}  // namespace
}  // namespace arrow_quant
