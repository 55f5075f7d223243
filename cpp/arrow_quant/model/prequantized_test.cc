#include "arrow_quant/model/prequantized.h"

#include <gtest/gtest.h>

namespace arrow_quant {
namespace {

TensorInfo Tensor(const std::string& name, DType dtype) {
  return {.name = name, .dtype = dtype, .shape = {8, 8}, .num_elements = 64};
}

PrequantizedScan Scan(const std::vector<TensorInfo>& tensors, const std::string& config = "") {
  return ScanForQuantization(config, tensors);
}

TEST(Prequantized, FloatModelsAreNone) {
  const PrequantizedScan scan = Scan({Tensor("a.weight", DType::kBF16), Tensor("ids", DType::kI64)}, "{}");
  EXPECT_TRUE(scan.method.empty());
  EXPECT_TRUE(scan.scale_for.empty());
}

TEST(Prequantized, TensorNamesTellTheMethod) {
  const std::vector<std::pair<std::string, std::string>> cases = {{"a.qweight", "GPTQ"},
                                                                  {"a.qzeros", "AWQ"},
                                                                  {"a.weight_packed", "compressed-tensors"},
                                                                  {"a.SCB", "bitsandbytes"},
                                                                  {"a.weight.absmax", "bitsandbytes"},
                                                                  {"a.W_q", "HQQ"},
                                                                  {"mlp.experts.gate_up_proj_blocks", "MXFP4"}};
  for (const auto& [name, method] : cases) {
    const PrequantizedScan scan = Scan({Tensor(name, DType::kU8)});
    EXPECT_NE(scan.method.find(method), std::string::npos) << name << ": " << scan.method;
    EXPECT_NE(scan.evidence.find(name), std::string::npos);
  }
}

TEST(Prequantized, TheConfigurationTellsTheMethod) {
  const auto tensors = std::vector{Tensor("a.weight", DType::kBF16)};
  EXPECT_EQ(Scan(tensors, R"({"quantization_config": {"quant_method": "torchao"}})").method, "torchao");
  EXPECT_EQ(Scan(tensors, R"({"quantization_config": {}})").method, "unnamed");
  EXPECT_EQ(Scan(tensors, R"({"quantization_config": null})").method, "");
}

TEST(Prequantized, EightBitFloatsArePairedWithTheirScales) {
  const PrequantizedScan scan = Scan(
      {Tensor("a.weight", DType::kF8E4M3), Tensor("a.weight_scale", DType::kF32), Tensor("b.weight", DType::kF8E4M3),
       Tensor("b.weight_scale_inv", DType::kF32), Tensor("c.weight", DType::kF8E5M2),
       Tensor("c.scale_weight", DType::kF32), Tensor("d.weight", DType::kF8E5M2)},
      R"({"quantization_config": {"quant_method": "fp8"}})");
  EXPECT_EQ(scan.method, "");
  EXPECT_EQ(scan.scale_for,
            (std::map<std::string, std::string>{
                {"a.weight", "a.weight_scale"}, {"b.weight", "b.weight_scale_inv"}, {"c.weight", "c.scale_weight"}}));
}

TEST(Prequantized, EightBitFloatsThatLackTheirScalesAreRefused) {
  const PrequantizedScan scan =
      Scan({Tensor("a.weight", DType::kF8E4M3)}, R"({"quantization_config": {"quant_method": "fp8"}})");
  EXPECT_EQ(scan.method, "fp8");
}

TEST(Prequantized, IntegersWithScalesAreRefused) {
  EXPECT_FALSE(Scan({Tensor("a.weight", DType::kI8), Tensor("a.weight_scale", DType::kF32)}).method.empty());
}

}  // namespace
}  // namespace arrow_quant
