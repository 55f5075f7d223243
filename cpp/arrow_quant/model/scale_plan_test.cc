#include "arrow_quant/model/scale_plan.h"

#include <gtest/gtest.h>

#include <numeric>

#include "arrow_quant/base/error.h"
#include "arrow_quant/model/prequantized.h"

namespace arrow_quant {
namespace {

TensorInfo Tensor(std::string name, DType dtype, std::vector<std::int64_t> shape) {
  TensorInfo info;
  info.name = std::move(name);
  info.dtype = dtype;
  info.num_elements = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  info.shape = std::move(shape);
  return info;
}

ScalePlan Plan(const std::vector<TensorInfo>& tensors, std::string_view config = "") {
  return PlanScales(ScanForQuantization("", tensors).scale_for, tensors, config);
}

ScalePlan PlanPair(const std::string& scale, std::vector<std::int64_t> shape, std::string_view config = "") {
  return Plan({Tensor("a.weight", DType::kF8E4M3, {300, 200}), Tensor(scale, DType::kF32, std::move(shape))}, config);
}

TEST(ScalePlan, OneNumberScalesAll) {
  for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{}, {1}, {1, 1}}) {
    const ScalePlan plan = PlanPair("a.weight_scale", shape);
    EXPECT_TRUE(plan.weights.at("a.weight").single());
    EXPECT_EQ(plan.merged.at("a.weight_scale"), "a.weight");
  }
}

TEST(ScalePlan, OnePerOutputChannel) {
  const ScaleShape shape = PlanPair("a.weight_scale", {300, 1}).weights.at("a.weight");
  EXPECT_EQ(shape.row_block, 1);
  EXPECT_EQ(shape.column_block, 200);
}

TEST(ScalePlan, OnePerBlock) {
  const ScaleShape shape = PlanPair("a.weight_scale_inv", {3, 2}).weights.at("a.weight");
  EXPECT_EQ(shape.row_block, 128);
  EXPECT_EQ(shape.column_block, 128);
}

TEST(ScalePlan, OtherShapesAndNamesAreRefusedByName) {
  const auto refused = [](const std::string& scale, std::vector<std::int64_t> shape, std::string_view config = "") {
    try {
      PlanPair(scale, std::move(shape), config);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_EQ(error.context().tensor, "a.weight");
      EXPECT_NE(error.message().find(scale), std::string::npos) << error.message();
      return true;
    }
    return false;
  };
  EXPECT_TRUE(refused("a.weight_scale", {3, 2}));  // blocks only under the name that says so
  EXPECT_TRUE(refused("a.weight_scale", {200}));
  EXPECT_TRUE(refused("a.weight_scale", {300, 200}));
  EXPECT_TRUE(refused("a.weight_scale_inv", {5, 4}));
  EXPECT_TRUE(refused("a.scale", {1}));
  EXPECT_TRUE(refused("a.scale_inv", {1}));
  const std::string_view config =
      R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [112, 112]}})";
  EXPECT_TRUE(refused("a.weight_scale_inv", {3, 2}, config));
  EXPECT_FALSE(refused("a.weight_scale_inv", {3, 2}, R"({"quantization_config": {"weight_block_size": [128, 128]}})"));
}

TEST(ScalePlan, ScalesOfActivationsAreMergedToo) {
  const ScalePlan plan = Plan({Tensor("a.weight", DType::kF8E5M2, {8, 8}), Tensor("a.weight_scale", DType::kBF16, {}),
                               Tensor("a.input_scale", DType::kF32, {}), Tensor("b.input_scale", DType::kF32, {})});
  EXPECT_EQ(plan.merged.size(), 2U);
  EXPECT_TRUE(plan.merged.contains("a.input_scale"));
}

TEST(ScalePlan, WithoutScalesThereIsNothingToDo) {
  EXPECT_TRUE(Plan({Tensor("a.weight", DType::kF8E4M3, {8, 8})}).weights.empty());
}

}  // namespace
}  // namespace arrow_quant
