#include "arrow_quant/io/parquet/compat_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/parquet/legacy.h"
#include "arrow_quant/io/test_directory.h"

namespace arrow_quant {
namespace {

std::vector<float> ReadBack(const std::filesystem::path& path) {
  const ParquetModel model = ParquetModel::Open(path);
  EXPECT_EQ(model.tensors()[0].layout, ParquetLayout::kV2Extended);
  std::vector<float> weights(model.tensors()[0].record.num_params);
  DequantizeLegacy(model.Load(0), weights.data());
  return weights;
}

TEST(CompatWriter, WeightsMoveByHalfALevelAtMost) {
  const TestDirectory directory;
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.01F, 0.05F);
  std::vector<float> weights(12 * 3 * 3 * 5);
  for (float& w : weights) w = normal(random);
  CompatWriter writer(directory.path());
  const CompatResult result =
      writer.Write({.name = "conv.weight", .shape = {12, 5, 3, 3}, .weights = weights, .modality = "image"});
  const std::vector<float> back = ReadBack(result.file.path);
  double worst = 0;
  for (std::size_t row = 0; row < 12; ++row) {
    const auto begin = weights.begin() + static_cast<std::ptrdiff_t>(row * 45);
    const auto [low, high] = std::minmax_element(begin, begin + 45);
    for (std::size_t i = row * 45; i < (row + 1) * 45; ++i) {
      const double error = std::fabs(static_cast<double>(back[i]) - static_cast<double>(weights[i]));
      worst = std::max(worst, error);
      // Half a level, and a part in 10^4 of it for float32 arithmetic.
      EXPECT_LE(error, (*high - *low) / 510.0 * 1.0001);
    }
  }
  EXPECT_EQ(result.max_error, worst);
}

TEST(CompatWriter, OneGridPerSliceIsKeptExactly) {
  const TestDirectory directory;
  const std::vector<std::uint8_t> codes = {0, 1, 2, 3, 3, 2, 1, 0};
  const std::vector<float> scales = {0.37F, 0.011F};
  const std::vector<float> zeros = {1.3F, 2.0F};
  std::vector<float> weights;
  for (std::size_t i = 0; i < 8; ++i) weights.push_back((static_cast<float>(codes[i]) - zeros[i / 4]) * scales[i / 4]);
  CompatWriter writer(directory.path());
  const CompatResult result = writer.Write({.name = "w",
                                            .shape = {2, 4},
                                            .weights = weights,
                                            .codes = codes,
                                            .scales = scales,
                                            .zero_points = zeros,
                                            .bits = 2});
  EXPECT_EQ(result.max_error, 0.0);
  EXPECT_EQ(ReadBack(result.file.path), weights);
  EXPECT_EQ(ParquetModel::Open(result.file.path).tensors()[0].record.quant_type, "int2");
}

TEST(CompatWriter, ConstantAndExtremeSlices) {
  const TestDirectory directory;
  const std::vector<float> weights = {0, 0, -2.5F, -2.5F, 7, 7, 1e-45F, 0, -3e38F, 3e38F};
  CompatWriter writer(directory.path());
  const std::vector<float> back = ReadBack(writer.Write({.name = "w", .shape = {5, 2}, .weights = weights}).file.path);
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(back[i], weights[i]);
  for (const float value : back) EXPECT_TRUE(std::isfinite(value));
}

TEST(CompatWriter, KeptTensorsAndScalarsAreFloat32) {
  const TestDirectory directory;
  const std::vector<float> weights = {1.5F, -2.25F, 1e-20F};
  CompatWriter writer(directory.path());
  EXPECT_EQ(ReadBack(writer.Write({.name = "n", .shape = {3}, .weights = weights, .quantized = false}).file.path),
            weights);
  const std::span<const float> one = std::span(weights).first(1);
  EXPECT_EQ(ReadBack(writer.Write({.name = "s", .shape = {}, .weights = one}).file.path)[0], 1.5F);
}

TEST(CompatWriter, NamesDoNotCollide) {
  const TestDirectory directory;
  EXPECT_EQ(CompatFileName("model.layers.0.weight"), "model_layers_0_weight.parquet");
  EXPECT_EQ(CompatFileName(R"(a/b\c:d*e?f"g<h>i|j.k)"), "a_b_c_d_e_f_g_h_i_j_k.parquet");
  const std::vector<float> weights = {1};
  CompatWriter writer(directory.path());
  for (const char* name : {"a.b", "a_b", "A.b", "a/b"}) writer.Write({.name = name, .shape = {1}, .weights = weights});
  const ParquetModel model = ParquetModel::Open(directory.path());
  EXPECT_EQ(model.tensors().size(), 4U);
  for (const char* name : {"a.b", "a_b", "A.b", "a/b"}) EXPECT_NO_THROW(model.Find(name));
}

TEST(CompatWriter, RefusesWhatItCannotStore) {
  const TestDirectory directory;
  const std::vector<float> weights = {1, std::numeric_limits<float>::infinity()};
  CompatWriter writer(directory.path());
  EXPECT_THROW(writer.Write({.name = "a", .shape = {2}, .weights = weights}), Error);
  EXPECT_THROW(writer.Write({.name = "a", .shape = {3}, .weights = weights}), Error);
  EXPECT_TRUE(directory.Names().empty());
}

}  // namespace
}  // namespace arrow_quant
