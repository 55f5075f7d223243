#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "arrow_quant/kernels/kernels.h"

namespace arrow_quant {
namespace {

// What the grid costs: quantize, dequantize, weighted squared error in double.
double GridError(const std::vector<float>& w, const std::vector<float>& weight, int max_code, AffineParams grid) {
  std::vector<std::uint8_t> codes(w.size());
  std::vector<float> q(w.size());
  Kernels().quantize(w.data(), w.size(), grid, max_code, codes.data());
  Kernels().dequantize(codes.data(), codes.size(), grid, q.data());
  double sum = 0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double error = static_cast<double>(w[i]) - q[i];
    sum += (weight.empty() ? 1.0 : weight[i]) * error * error;
  }
  return sum;
}

AffineParams Fit(const std::vector<float>& w, const std::vector<float>& weight, int max_code) {
  const MinMax range = Kernels().min_max(w.data(), w.size());
  return Kernels().fit_affine(w.data(), weight.empty() ? nullptr : weight.data(), w.size(), max_code, range.low,
                              range.high);
}

AffineParams MinMaxGrid(const std::vector<float>& w, int max_code) {
  const auto [low, high] = std::minmax_element(w.begin(), w.end());
  const float scale = (*high - *low) / static_cast<float>(max_code);
  return {scale, -*low / scale};
}

struct Candidate {
  double slope;
  double offset;
};

double NearestCode(double w, Candidate line, int max_code) {
  return std::clamp(std::nearbyint((w - line.offset) / line.slope), 0.0, static_cast<double>(max_code));
}

// The least weighted squared error over the 10 starts, in double throughout, by the plainest code.
double ReferenceError(const std::vector<float>& w, const std::vector<float>& weight, int max_code) {
  const auto [low, high] = std::minmax_element(w.begin(), w.end());
  const double middle = (static_cast<double>(*low) + *high) / 2;
  double best = INFINITY;
  for (int k = 0; k < 10; ++k) {
    const double range = (static_cast<double>(*high) - *low) * (1.0 - 0.6 * k / 9);
    Candidate line{range / max_code, middle - range / 2};
    for (int step = 0; step <= 8; ++step) {
      double g = 0, c = 0, cc = 0, d = 0, cd = 0, error = 0;
      for (std::size_t i = 0; i < w.size(); ++i) {
        const double wi = weight.empty() ? 1.0 : weight[i];
        const double code = NearestCode(w[i], line, max_code);
        const double e = w[i] - (line.slope * code + line.offset);
        error += wi * e * e;
        g += wi;
        c += wi * code;
        cc += wi * code * code;
        d += wi * (w[i] - middle);
        cd += wi * code * (w[i] - middle);
      }
      best = std::min(best, error);
      const double variance = cc - c * c / g;
      if (variance < 1e-9 * cc) break;
      line.slope = (cd - c * d / g) / variance;
      line.offset = middle + (d - line.slope * c) / g;
    }
  }
  return best;
}

std::vector<float> Gaussian(std::size_t n, float scale, float center, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> w(n);
  for (float& x : w) x = (normal(rng) + center) * scale;
  return w;
}

std::vector<float> Weights(std::size_t n, float scale, unsigned seed) {
  std::vector<float> weight = Gaussian(n, 1, 0, seed);
  for (float& x : weight) x = x * x * scale;
  return weight;
}

TEST(FitAffine, AsGoodAsTheDoubleReference) {
  for (std::size_t n : {16u, 36u, 64u, 128u, 300u, 1500u}) {
    for (int max_code : {3, 7, 15, 255}) {
      const unsigned groups = n > 1000 ? 4 : 25;
      for (unsigned seed = 0; seed < groups; ++seed) {
        const std::vector<float> w = Gaussian(n, 0.02f, 0.3f, seed);
        const std::vector<float> weight = seed % 2 == 0 ? std::vector<float>{} : Weights(n, 1e-3f, seed + 100);
        // Both follow the same path unless a value lies within float rounding of the border between two codes. What
        // remains is that rounding in the error itself, most at 8 bits: 1.5e-5 seen.
        EXPECT_LE(GridError(w, weight, max_code, Fit(w, weight, max_code)),
                  ReferenceError(w, weight, max_code) * (1 + 1e-4))
            << n << " " << max_code << " " << seed;
      }
    }
  }
}

TEST(FitAffine, NeverWorseThanMinMax) {
  std::mt19937 rng(4);
  for (unsigned trial = 0; trial < 2000; ++trial) {
    const std::size_t n = 2 + rng() % 200;
    const int max_code = (1 << (trial % 4 == 3 ? 8 : 2 + trial % 4)) - 1;
    const float scale = std::pow(10.0f, static_cast<float>(rng() % 68) - 37.0f);
    const float center = trial % 3 == 0 ? 0.0f : std::pow(10.0f, static_cast<float>(trial % 5));
    const std::vector<float> w = Gaussian(n, scale, center, trial);
    const std::vector<float> weight = trial % 2 == 0 ? std::vector<float>{} : Weights(n, 1.0f, trial);
    if (!std::isnormal(*std::max_element(w.begin(), w.end()) - *std::min_element(w.begin(), w.end()))) continue;
    const AffineParams grid = Fit(w, weight, max_code);
    ASSERT_TRUE(std::isfinite(grid.scale) && std::isfinite(grid.zero_point) && grid.scale > 0) << trial;
    const double least = GridError(w, weight, max_code, MinMaxGrid(w, max_code));
    // The kernel compares the two in its own order of summation.
    ASSERT_LE(GridError(w, weight, max_code, grid), least * (1 + 1e-12)) << trial;
  }
}

TEST(FitAffine, ScalesWithTheGroup) {
  // Powers of two change no rounding, so the grid must scale exactly, over all binades that leave the grid normal.
  const std::vector<float> w = Gaussian(64, 1.0f, 0.5f, 9);
  const AffineParams base = Fit(w, {}, 15);
  for (int exponent : {-120, -60, -1, 1, 60, 120}) {
    std::vector<float> scaled = w;
    for (float& x : scaled) x = std::ldexp(x, exponent);
    const AffineParams grid = Fit(scaled, {}, 15);
    EXPECT_EQ(grid.scale, std::ldexp(base.scale, exponent)) << exponent;
    EXPECT_EQ(grid.zero_point, base.zero_point) << exponent;
  }
}

TEST(FitAffine, OnlyRatiosOfWeightsMatter) {
  const std::vector<float> w = Gaussian(64, 1.0f, 0.0f, 10);
  const std::vector<float> weight = Weights(64, 1.0f, 11);
  const AffineParams base = Fit(w, weight, 3);
  for (int exponent : {-100, 100}) {
    std::vector<float> scaled = weight;
    for (float& x : scaled) x = std::ldexp(x, exponent);
    const AffineParams grid = Fit(w, scaled, 3);
    EXPECT_EQ(grid.scale, base.scale);
    EXPECT_EQ(grid.zero_point, base.zero_point);
  }
  const AffineParams plain = Fit(w, {}, 3);
  for (float constant : {0.0f, 1.0f, 1e-30f, 7.0f}) {
    const AffineParams grid = Fit(w, std::vector<float>(64, constant), 3);
    EXPECT_EQ(grid.scale, plain.scale) << constant;
    EXPECT_EQ(grid.zero_point, plain.zero_point) << constant;
  }
}

TEST(FitAffine, FindsAnExactGrid) {
  std::mt19937 rng(12);
  for (int max_code : {3, 7, 15, 255}) {
    std::vector<float> w(512);
    for (std::size_t i = 0; i < w.size(); ++i) {
      const unsigned code = i <= static_cast<std::size_t>(max_code) ? static_cast<unsigned>(i)
                                                                    : static_cast<unsigned>(rng()) % (max_code + 1u);
      w[i] = 0.125f * (static_cast<float>(code) - 2.0f);
    }
    const AffineParams grid = Fit(w, {}, max_code);
    // Sums in float leave a few units of the last place, of values up to 32.
    EXPECT_LE(GridError(w, {}, max_code, grid), 512 * std::pow(32 * 1e-6, 2)) << max_code;
    EXPECT_NEAR(grid.scale, 0.125f, 1e-6f);
    EXPECT_NEAR(grid.zero_point, 2.0f, 1e-4f);
  }
}

TEST(FitAffine, ExtremeGroupsGiveFiniteGrids) {
  const std::vector<std::vector<float>> groups = {
      {-1.7e38f, 1.7e38f},
      {0.0f, 1.2e-38f},
      {-1.2e-38f, 0.0f, 1e-40f},
      {1.0f, std::nextafter(1.0f, 2.0f)},
      {1e30f, std::nextafter(1e30f, 2e30f), 1e30f},
      {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1e30f},
  };
  for (const auto& w : groups) {
    for (int max_code : {3, 15, 255}) {
      const AffineParams grid = Fit(w, {}, max_code);
      ASSERT_TRUE(std::isfinite(grid.scale) && std::isfinite(grid.zero_point) && grid.scale > 0) << w[1];
      ASSERT_TRUE(std::isfinite(GridError(w, {}, max_code, grid))) << w[1];
      ASSERT_LE(GridError(w, {}, max_code, grid), GridError(w, {}, max_code, MinMaxGrid(w, max_code))) << w[1];
    }
  }
}

}  // namespace
}  // namespace arrow_quant
