#include "arrow_quant/model/keep_list.h"

#include <gtest/gtest.h>

#include <map>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

TensorInfo Tensor(const std::string& name, const std::vector<std::int64_t>& shape, DType dtype = DType::kF32) {
  TensorInfo info{.name = name, .dtype = dtype, .shape = shape, .num_elements = 1};
  for (const std::int64_t size : shape) info.num_elements *= size;
  return info;
}

TensorDecision DecideOne(const TensorInfo& info, const KeepOptions& options = {}) {
  return KeepList(options).Decide(std::vector{info}, Architecture{}).front();
}

std::vector<std::string> Quantized(const std::vector<TensorInfo>& tensors, const Architecture& architecture) {
  const auto decisions = KeepList().Decide(tensors, architecture);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_FALSE(decisions[i].reason.empty()) << tensors[i].name;
    if (decisions[i].quantize) names.push_back(tensors[i].name);
  }
  return names;
}

// A DiT as diffusers names it, with `blocks` blocks.
std::vector<TensorInfo> DitTensors(int blocks) {
  std::vector<TensorInfo> tensors = {Tensor("pos_embed.proj.weight", {192, 1, 4, 4}),
                                     Tensor("pos_embed.proj.bias", {192}), Tensor("proj_out_1.weight", {384, 192}),
                                     Tensor("proj_out_2.weight", {16, 192})};
  for (int i = 0; i < blocks; ++i) {
    const std::string block = "transformer_blocks." + std::to_string(i) + ".";
    for (const char* name :
         {"attn1.to_k", "attn1.to_q", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear",
          "norm1.emb.timestep_embedder.linear_1", "norm1.emb.timestep_embedder.linear_2"}) {
      tensors.push_back(Tensor(block + name + ".weight", {192, 192}));
      tensors.push_back(Tensor(block + name + ".bias", {192}));
    }
    tensors.push_back(Tensor(block + "norm1.emb.class_embedder.embedding_table.weight", {11, 192}));
  }
  return tensors;
}

TEST(KeepList, OfADitQuantizesTheLinearsOfItsBlocks) {
  const auto names = Quantized(DitTensors(6), {.class_name = "DiTTransformer2DModel",
                                               .model_type = {},
                                               .family = ModelFamily::kDiffusionTransformer,
                                               .in_channels = 1,
                                               .out_channels = 1});
  EXPECT_EQ(names.size(), 42U);
  for (const std::string& name : names) {
    EXPECT_TRUE(name.find(".attn1.") != std::string::npos || name.find(".ff.") != std::string::npos ||
                name.ends_with(".norm1.linear.weight"))
        << name;
  }
}

TEST(KeepList, OfAMaskedLanguageModelQuantizesTheLinearsOfItsLayers) {
  std::vector<TensorInfo> tensors = {
      Tensor("decoder.bias", {258}), Tensor("head.dense.weight", {192, 192}), Tensor("head.norm.weight", {192}),
      Tensor("model.embeddings.tok_embeddings.weight", {258, 192}), Tensor("model.final_norm.weight", {192})};
  for (int i = 0; i < 6; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    for (const char* name : {"attn.Wo", "attn.Wqkv", "mlp.Wi", "mlp.Wo"}) {
      tensors.push_back(Tensor(layer + name + ".weight", {192, 192}));
    }
    tensors.push_back(Tensor(layer + "mlp_norm.weight", {192}));
  }
  EXPECT_EQ(Quantized(tensors, ReadArchitecture(R"({"architectures":["ModernBertForMaskedLM"]})")).size(), 24U);
}

TEST(KeepList, TheOnlyConvolutionWithTheInputChannelsIsTheFirst) {
  const std::vector<TensorInfo> tensors = {
      Tensor("network.b1.0.conv1.weight", {10, 1, 3, 3}), Tensor("network.b1.0.conv2.weight", {10, 10, 3, 3}),
      Tensor("network.b1.0.ln.weight", {1, 28, 28}),      Tensor("network.conv_out.weight", {1, 10, 3, 3}),
      Tensor("network.te1.0.weight", {1, 100}),           Tensor("network.te1.2.weight", {1, 1}),
      Tensor("network.down1.weight", {10, 10, 4, 4})};
  const Architecture architecture = ReadArchitecture(R"({"_class_name":"MyUNet","in_channels":1})");
  EXPECT_EQ(Quantized(tensors, architecture),
            (std::vector<std::string>{"network.b1.0.conv2.weight", "network.down1.weight"}));
  EXPECT_EQ(Quantized(tensors, {}), (std::vector<std::string>{"network.b1.0.conv2.weight", "network.down1.weight"}));
}

TEST(KeepList, TwoConvolutionsWithTheInputChannelsAreNoEnds) {
  const std::vector<TensorInfo> tensors = {Tensor("a.weight", {64, 3, 3, 3}), Tensor("b.weight", {64, 3, 3, 3})};
  EXPECT_EQ(Quantized(tensors, {.in_channels = 3}).size(), 2U);
}

TEST(KeepList, WhatCannotBeQuantizedIsKeptWithAReason) {
  const std::vector<std::pair<TensorInfo, std::string>> cases = {
      {Tensor("ids.weight", {64, 64}, DType::kI64), "not a floating-point tensor"},
      {Tensor("mask.weight", {64, 64}, DType::kBool), "not a floating-point tensor"},
      {Tensor("a.weight", {64}), "fewer than two axes"},
      {Tensor("a.weight", {}), "fewer than two axes"},
      {Tensor("a.weight", {0}), "no elements"},
      {Tensor("a.weight", {2, 0}), "no elements"},
      {Tensor("a.weight", {1, 12}), "too small"},
      {Tensor("a.weight", {1, 1}), "too small"},
      {Tensor("a.weight", {1000, 1}), "too small"},
      {Tensor("a.weight", {192, 1, 3}), "too small"},
      {Tensor("embed_tokens.weight", {3, 2048}), "token embedding"}};
  for (const auto& [info, reason] : cases) {
    const TensorDecision decision = DecideOne(info);
    EXPECT_FALSE(decision.quantize) << info.name << " " << reason;
    EXPECT_NE(decision.reason.find(reason), std::string::npos) << decision.reason;
  }
}

TEST(KeepList, AwkwardShapesAreQuantizedAsMatrices) {
  const std::map<std::vector<std::int64_t>, std::pair<std::int64_t, std::int64_t>> cases = {
      {{8, 4304}, {8, 4304}},
      {{320, 64, 3, 3}, {320, 576}},
      {{16, 8, 3, 3, 3}, {16, 216}},
      {{768, 192, 3}, {768, 576}}};
  for (const auto& [shape, matrix] : cases) {
    const TensorDecision decision = DecideOne(Tensor("blocks.0.a.weight", shape));
    EXPECT_TRUE(decision.quantize) << decision.reason;
    EXPECT_EQ(decision.matrix.rows, matrix.first);
    EXPECT_EQ(decision.matrix.cols, matrix.second);
  }
}

TEST(KeepList, StackedExpertsAreSeenPerExpert) {
  const TensorDecision decision = DecideOne(Tensor("layers.0.mlp.experts.down_proj", {4, 96, 64}));
  EXPECT_TRUE(decision.quantize);
  EXPECT_EQ(decision.matrix, (MatrixShape{.quant_axis = 0, .row_rank = 2, .rows = 384, .cols = 64}));
}

TEST(KeepList, TransposedConvolutionsAreToldByNameOrPattern) {
  EXPECT_EQ(DecideOne(Tensor("up.0.conv_transpose.weight", {40, 20, 4, 4})).matrix.quant_axis, 1);
  EXPECT_EQ(DecideOne(Tensor("up.0.weight", {40, 20, 4, 4})).matrix.quant_axis, 0);
  const KeepOptions options{.transposed_patterns = {"^up\\."}};
  EXPECT_EQ(DecideOne(Tensor("up.0.weight", {40, 20, 4, 4}), options).matrix.rows, 20);
}

TEST(KeepList, PatternsAddAndRemove) {
  const KeepOptions options{.keep_patterns = {"ATTN1\\.to_q"}, .quantize_patterns = {"proj_out", "to_q", "tiny"}};
  const TensorDecision kept = DecideOne(Tensor("transformer_blocks.0.attn1.to_q.weight", {64, 64}), options);
  EXPECT_FALSE(kept.quantize);
  EXPECT_EQ(kept.reason, "keep pattern 'ATTN1\\.to_q'");
  EXPECT_TRUE(DecideOne(Tensor("proj_out.weight", {64, 64}), options).quantize);
  EXPECT_TRUE(DecideOne(Tensor("tiny.weight", {1, 12}), options).quantize);
  EXPECT_FALSE(DecideOne(Tensor("proj_out.bias", {64}), options).quantize);
  EXPECT_FALSE(DecideOne(Tensor("tiny.ids", {64, 64}, DType::kI32), options).quantize);
}

TEST(KeepList, AnInvalidPatternIsNamed) {
  try {
    KeepList list(KeepOptions{.keep_patterns = {"ok", "(unclosed"}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfiguration);
    EXPECT_NE(error.message().find("(unclosed"), std::string::npos);
    EXPECT_NE(error.message().find("keep_patterns"), std::string::npos);
  }
}

TEST(KeepList, PatternsWithoutATensorAreReported) {
  const KeepList list(KeepOptions{.keep_patterns = {"attn", "atn"}, .quantize_patterns = {"zz"}});
  EXPECT_EQ(list.UnmatchedPatterns(std::vector{Tensor("a.attn.weight", {8, 8})}),
            (std::vector<std::string>{"atn", "zz"}));
}

TEST(KeepList, LongNamesAreNotMatched) {
  const KeepOptions options{.keep_patterns = {"(a|b)*c"}};
  EXPECT_TRUE(DecideOne(Tensor(std::string(1'000'000, 'a'), {64, 64}), options).quantize);
}

}  // namespace
}  // namespace arrow_quant
