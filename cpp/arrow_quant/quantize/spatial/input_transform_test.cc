#include "arrow_quant/quantize/spatial/input_transform.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace arrow_quant {
namespace {

constexpr std::int64_t kRows = 5;
constexpr std::int64_t kOutputs = 7;
constexpr std::int64_t kCols = 100;

AlignedVector<float> Normal(std::int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  AlignedVector<float> values(static_cast<std::size_t>(n));
  for (float& v : values) v = normal(random);
  return values;
}

InputTransform AllOfIt() {
  InputTransform transform;
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(0.1F, 10.0F);
  for (std::int64_t c = 0; c < kCols; ++c) {
    transform.scales.push_back(uniform(random));
    transform.shift.push_back(uniform(random) - 5);
  }
  transform.rotation_seed = 11;
  return transform;
}

double Product(const float* w, const float* x) {
  double sum = 0;
  for (std::int64_t c = 0; c < kCols; ++c) sum += static_cast<double>(w[c]) * static_cast<double>(x[c]);
  return sum;
}

// W x = W' x' + W shift.
TEST(InputTransform, PreservesTheFunction) {
  const InputTransform transform = AllOfIt();
  const AlignedVector<float> x = Normal(kRows * kCols, 1);
  const AlignedVector<float> w = Normal(kOutputs * kCols, 2);
  AlignedVector<float> turned_x = x;
  AlignedVector<float> turned_w = w;
  TransformInputs(transform, {turned_x.data(), kRows, kCols});
  TransformWeight(transform, {turned_w.data(), kOutputs, kCols});
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t o = 0; o < kOutputs; ++o) {
      const double want = Product(&w[static_cast<std::size_t>(o * kCols)], &x[static_cast<std::size_t>(r * kCols)]);
      const double shifted = Product(&w[static_cast<std::size_t>(o * kCols)], transform.shift.data());
      const double got =
          Product(&turned_w[static_cast<std::size_t>(o * kCols)], &turned_x[static_cast<std::size_t>(r * kCols)]);
      EXPECT_NEAR(got + shifted, want, 1e-4 * (1 + std::abs(want)));
    }
  }
}

// The moment of transformed rows is the transformed moment of the rows.
TEST(InputTransform, MomentIsThatOfTransformedRows) {
  InputTransform transform = AllOfIt();
  transform.shift.clear();
  AlignedVector<float> rows = Normal(kRows * kCols, 4);
  const auto moment_of = [](const AlignedVector<float>& values) {
    AlignedVector<float> moment(kCols * kCols, 0.0F);
    for (std::int64_t r = 0; r < kRows; ++r) {
      const float* x = &values[static_cast<std::size_t>(r * kCols)];
      for (std::int64_t i = 0; i < kCols; ++i) {
        for (std::int64_t j = 0; j < kCols; ++j) moment[static_cast<std::size_t>(i * kCols + j)] += x[i] * x[j];
      }
    }
    return moment;
  };
  const AlignedVector<float> before = moment_of(rows);
  TransformInputs(transform, {rows.data(), kRows, kCols});
  const AlignedVector<float> want = moment_of(rows);
  const AlignedVector<float> got = TransformedMoment(transform, {before.data(), kCols, kCols});
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-3 * (1 + std::abs(want[i])));
}

}  // namespace
}  // namespace arrow_quant
