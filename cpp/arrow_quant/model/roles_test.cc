#include "arrow_quant/model/roles.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "arrow_quant/model/role_table.h"

namespace arrow_quant {
namespace {

struct Case {
  std::string name;
  LayerRole role;
  bool kept;
  std::vector<std::int64_t> shape = {64, 64};
  ModelFamily family = ModelFamily::kUnknown;
};

using R = LayerRole;
const std::vector<std::int64_t> kConv = {64, 64, 3, 3};

std::vector<Case> Cases() {
  return {
      // Diffusion transformers of diffusers.
      {"transformer_blocks.0.norm1.linear.weight", R::kModulation, false},
      {"transformer_blocks.0.norm1_context.linear.weight", R::kModulation, false},
      {"single_transformer_blocks.3.norm.linear.weight", R::kModulation, false},
      {"transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight", R::kTimestepEmbedder, true},
      {"transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight", R::kEmbedding, true},
      {"transformer_blocks.0.attn1.to_out.0.weight", R::kAttention, false},
      {"transformer_blocks.0.attn.add_q_proj.weight", R::kAttention, false},
      {"transformer_blocks.0.attn.norm_q.weight", R::kNorm, true},
      {"transformer_blocks.0.ff.net.0.proj.weight", R::kFeedForward, false},
      {"transformer_blocks.0.ff.net.2.weight", R::kFeedForward, false},
      {"single_transformer_blocks.3.proj_out.weight", R::kLinear, false},
      {"single_transformer_blocks.3.proj_mlp.weight", R::kFeedForward, false},
      {"transformer_blocks.0.scale_shift_table", R::kModulation, true},
      {"scale_shift_table", R::kModulation, true},
      {"adaln_single.linear.weight", R::kTimestepEmbedder, true},
      {"caption_projection.linear_1.weight", R::kEmbedding, true},
      {"norm_out.linear.weight", R::kFinalLayer, true},
      {"proj_out.weight", R::kFinalLayer, true},
      {"proj_out_1.weight", R::kFinalLayer, true},
      {"proj_out_2.weight", R::kFinalLayer, true},
      {"pos_embed.proj.weight", R::kFirstLayer, true, kConv},
      {"pos_embed.pos_embed", R::kPositionEmbedding, true, {1, 64, 48}},
      {"patch_embedding.weight", R::kFirstLayer, true, {64, 16, 1, 2, 2}},
      {"x_embedder.weight", R::kFirstLayer, true},
      {"context_embedder.weight", R::kEmbedding, true},
      {"time_text_embed.guidance_embedder.linear_1.weight", R::kTimestepEmbedder, true},
      {"condition_embedder.time_proj.weight", R::kTimestepEmbedder, true},
      // Diffusion transformers of their authors.
      {"blocks.0.adaLN_modulation.1.weight", R::kModulation, false},
      {"double_blocks.0.img_mod.lin.weight", R::kModulation, false},
      {"blocks.0.modulation", R::kModulation, true, {1, 6, 64}},
      {"final_layer.adaLN_modulation.1.weight", R::kFinalLayer, true},
      {"final_layer.linear.weight", R::kFinalLayer, true},
      {"t_embedder.mlp.0.weight", R::kTimestepEmbedder, true},
      {"y_embedder.embedding_table.weight", R::kEmbedding, true},
      {"img_in.weight", R::kFirstLayer, true},
      // UNets.
      {"conv_in.weight", R::kFirstLayer, true, kConv},
      {"conv_out.weight", R::kFinalLayer, true, kConv},
      {"time_embedding.linear_1.weight", R::kTimestepEmbedder, true},
      {"add_embedding.linear_1.weight", R::kEmbedding, true},
      {"down_blocks.0.attentions.1.proj_in.weight", R::kAttention, false},
      {"down_blocks.0.attentions.1.proj_out.weight", R::kAttention, false, {64, 64, 1, 1}},
      {"mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight", R::kFeedForward, false},
      {"down_blocks.0.resnets.0.conv1.weight", R::kConvolution, false, kConv},
      {"down_blocks.0.resnets.0.conv_shortcut.weight", R::kConvolution, false, {64, 64, 1, 1}},
      {"down_blocks.0.resnets.0.time_emb_proj.weight", R::kModulation, false},
      {"down_blocks.0.downsamplers.0.conv.weight", R::kConvolution, false, kConv},
      {"model.diffusion_model.input_blocks.0.0.weight", R::kFirstLayer, true, kConv},
      {"model.diffusion_model.input_blocks.1.0.in_layers.2.weight", R::kConvolution, false, kConv},
      {"model.diffusion_model.out.2.weight", R::kFinalLayer, true, kConv},
      {"model.diffusion_model.time_embed.0.weight", R::kTimestepEmbedder, true},
      {"first_stage_model.encoder.conv1.weight", R::kOther, true, kConv},
      {"cond_stage_model.transformer.layers.0.mlp.fc1.weight", R::kOther, true},
      {"network.b1.1.ln.weight", R::kNorm, true, {10, 28, 28}},
      {"network.te1.2.weight", R::kTimestepEmbedder, true, {1, 1}},
      {"network.te_mid.0.weight", R::kTimestepEmbedder, true},
      // Audio.
      {"preprocess_conv.weight", R::kFirstLayer, true, {64, 64, 1}},
      {"postprocess_conv.weight", R::kFinalLayer, true, {64, 64, 1}},
      {"timestep_proj.0.weight", R::kTimestepEmbedder, true},
      {"down_blocks.0.resnets.0.time_emb_proj.weight", R::kTimestepEmbedder, true, {64, 64}, ModelFamily::kAudio},
      // Language models.
      {"model.embed_tokens.weight", R::kEmbedding, true},
      {"model.embeddings.tok_embeddings.weight", R::kEmbedding, true},
      {"transformer.wte.weight", R::kEmbedding, true},
      {"transformer.wpe.weight", R::kPositionEmbedding, true},
      {"lm_head.weight", R::kLmHead, true},
      {"decoder.weight", R::kLmHead, true},
      {"decoder.block.0.layer.0.SelfAttention.q.weight", R::kAttention, false},
      {"head.dense.weight", R::kLmHead, true},
      {"cls.predictions.decoder.weight", R::kLmHead, true},
      {"model.transformer.ff_out.weight", R::kLmHead, true},
      {"model.transformer.blocks.0.ff_out.weight", R::kFeedForward, false},
      {"model.layers.0.attn.Wqkv.weight", R::kAttention, false},
      {"model.layers.0.mlp.Wi.weight", R::kFeedForward, false},
      {"model.layers.0.mlp.gate_proj.weight", R::kFeedForward, false},
      {"model.layers.0.mlp.gate.weight", R::kRouter, true},
      {"model.layers.0.block_sparse_moe.gate.weight", R::kRouter, true},
      {"model.layers.0.mlp.router.weight", R::kRouter, true},
      {"model.layers.0.mlp.experts.3.gate_proj.weight", R::kExpert, false},
      {"model.layers.0.mlp.experts.gate_up_proj", R::kExpert, false, {4, 96, 64}},
      {"model.layers.0.mlp.experts.gate_up_proj_bias", R::kBias, true},
      {"model.layers.0.self_attn.in_proj_weight", R::kAttention, false},
      // Others.
      {"layer.weight", R::kLinear, false},
      {"blocks.0.attn.bias", R::kBias, true, {64}},
      {"cls_token", R::kOther, true, {1, 1, 64}},
      {"whatever", R::kOther, true, {1, 64, 48}},
      {"a.weight_scale_inv", R::kOther, true},
      {"", R::kLinear, false},
      {"..", R::kLinear, false},
  };
}

TEST(Roles, FollowTheNames) {
  for (const Case& c : Cases()) {
    const RoleDecision decision = ClassifyTensor(c.name, c.shape, DType::kF32, c.family);
    EXPECT_EQ(LayerRoleName(decision.role), LayerRoleName(c.role)) << c.name;
    EXPECT_EQ(!decision.keep_reason.empty(), c.kept) << c.name << ": " << decision.keep_reason;
  }
}

TEST(Roles, IntegersAndBooleansAreNoLayers) {
  for (const DType dtype : {DType::kI64, DType::kBool, DType::kU8, DType::kC64}) {
    const std::vector<std::int64_t> shape = {64, 64};
    EXPECT_EQ(ClassifyTensor("blocks.0.attn.to_q.weight", shape, dtype).keep_reason, "not a floating-point tensor");
  }
}

TEST(Roles, EveryRuleHasPatterns) {
  for (const RoleRule& rule : RoleTable()) {
    EXPECT_FALSE(rule.patterns.empty());
    EXPECT_EQ(rule.patterns.find("  "), std::string_view::npos) << rule.patterns;
  }
}

}  // namespace
}  // namespace arrow_quant
