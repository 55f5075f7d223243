#include "arrow_quant/model/role_table.h"

#include <array>

namespace arrow_quant {
namespace {

using Role = LayerRole;
using Scope = RoleScope;

constexpr std::string_view kTimestep = "timestep embedder: small, and every step depends on it";
constexpr std::string_view kCondition = "embedder of a condition";
constexpr std::string_view kEmbedding = "embedding table";
constexpr std::string_view kPosition = "position embedding";
constexpr std::string_view kFirst = "first layer: sees the raw input";
constexpr std::string_view kFinal = "final layer: its error is the output's error";
constexpr std::string_view kHead = "language model head";
constexpr std::string_view kRouter = "router: a small error chooses another expert";
constexpr std::string_view kNorm = "normalization";
constexpr std::string_view kTable = "modulation table: added, not multiplied";
constexpr std::string_view kScale = "scale factor";
constexpr std::string_view kForeign = "part of another component in the same file";
constexpr std::string_view kBare = "bare parameter, not the weight of a layer";
constexpr std::string_view kNone;

constexpr std::array kRules = {
    RoleRule{Scope::kTop,
             "first_stage_model cond_stage_model conditioner text_encoders text_encoder text_encoder_# vae",
             Role::kOther, kForeign},
    RoleRule{Scope::kLast, "*_scale *_scale_inv scale scale_inv scale_weight scale_input scaled_fp8", Role::kOther,
             kScale},

    // Mixtures of experts. `gate` chooses experts, `gate_proj` is a feed-forward matrix.
    RoleRule{Scope::kAnywhere, "router *_router", Role::kRouter, kRouter},
    RoleRule{Scope::kLast, "mlp.gate moe.gate *_moe.gate feed_forward.gate ffn.gate ff.gate shared_expert_gate gating",
             Role::kRouter, kRouter},
    RoleRule{Scope::kAnywhere, "experts *_experts expert_# moe", Role::kExpert, kNone},

    // Timesteps. In audio models the projections inside of the blocks belong to them too.
    RoleRule{
        Scope::kAnywhere,
        "timestep_embed* timestep_emb time_embed* time_emb t_embed* timestep_proj* time_step_proj time_proj* time_in "
        "guidance_embed* guidance_in time_text_embed* time_guidance_embed* time_caption_embed* time_extra_emb "
        "sigma_map sigma_embed* time_mlp t_block te te# te_* add_time_proj noise_embed* distilled_guidance_layer",
        Role::kTimestepEmbedder, kTimestep},
    RoleRule{Scope::kTop, "*adaln_single adaln_*_single", Role::kTimestepEmbedder, kTimestep},
    RoleRule{Scope::kAnywhere, "time_emb_proj emb_layers", Role::kTimestepEmbedder, kTimestep, ModelFamily::kAudio},

    // Labels, positions, the input and its conditions.
    RoleRule{Scope::kAnywhere, "class_emb* label_emb* y_embed*", Role::kEmbedding, "label embedder"},
    RoleRule{Scope::kAnywhere, "patch_emb* pos_embed.proj *x_embedder* patchify* input_blocks.0.0", Role::kFirstLayer,
             kFirst},
    RoleRule{Scope::kAnywhere,
             "pos_emb* position_emb* positional_emb* absolute_pos_emb* wpe relative_attention_bias relative_position* "
             "rotary* rope* inv_freq freqs* pos_encod* position_encod* positional_encod*",
             Role::kPositionEmbedding, kPosition},
    RoleRule{Scope::kTop,
             "conv_in img_in proj_in preprocess_conv in_conv init_conv first_conv input_conv input_proj input_layer "
             "proj_in_conv stem",
             Role::kFirstLayer, kFirst},
    RoleRule{Scope::kAnywhere,
             "*context_embed* caption_* condition_embed* text_embed* text_emb txt_in vector_in encoder_hid_proj* "
             "add_embedding* text_proj* cap_embed* global_proj* cross_attention_proj* extra_embedder pooled_* "
             "image_embed* img_emb* embedding_proj encoder_hidden_states_proj clip_*_mapper encoder_proj",
             Role::kEmbedding, kCondition},

    // Heads before embeddings: an `embed_out` is a head.
    RoleRule{Scope::kAnywhere, "lm_head* embed_out vocab_projector vocab_transform mlm_head mlm_layer cls.predictions",
             Role::kLmHead, kHead},
    RoleRule{Scope::kTop, "head.dense", Role::kLmHead, kHead},
    RoleRule{Scope::kTopLast, "decoder ff_out output generator", Role::kLmHead, kHead},
    RoleRule{Scope::kAnywhere,
             "embed_tokens tok_embeddings word_embeddings wte token_embed* token_type_embed* vocab_embed* embed_in",
             Role::kEmbedding, "token embedding"},
    RoleRule{Scope::kTop, "shared", Role::kEmbedding, "token embedding"},
    RoleRule{Scope::kAnywhere, "*embed *embedding *embeddings *embedder *embedders embed_* *embedding_table",
             Role::kEmbedding, kEmbedding},
    RoleRule{
        Scope::kTop,
        "norm_out proj_out proj_out_# *final_layer* final_proj final_conv final_linear conv_out output_layer "
        "output_proj proj_out_conv out_conv conv_final final_conv* last_layer postprocess_conv classifier head out.#",
        Role::kFinalLayer, kFinal},
    RoleRule{Scope::kTopLast, "out", Role::kFinalLayer, kFinal},

    // Modulation: matrices inside of the blocks are quantized although their path says norm; tables are not.
    RoleRule{Scope::kLast, "*scale_shift_table", Role::kModulation, kTable},
    RoleRule{Scope::kBare, "*modulation", Role::kModulation, kTable},
    RoleRule{Scope::kAnywhere,
             "norm*.linear* *_norm.linear* norm*.lin adaLN* adaln* img_mod* txt_mod* *_modulation* modulation* mod "
             "time_emb_proj emb_layers",
             Role::kModulation, kNone},
    RoleRule{
        Scope::kLast,
        "norm norm# norm_* norm#_* *norm *norm# *_norm_* *Norm ln ln# ln_* *_ln layer_norm* layernorm* group_norm* "
        "bn bn# gn gn# rms*",
        Role::kNorm, kNorm},
    RoleRule{Scope::kBare, "*token* *quer* *latents* *register* *padding* *table* *codebook* gamma beta mask* *_freq*",
             Role::kOther, kBare},

    RoleRule{Scope::kAnywhere,
             "ff ff_* ffn ffn_* ffn.* mlp mlp_* mlp# *_mlp *mlp feed_forward* gate_proj up_proj down_proj gate_up_proj "
             "w1 w2 w3 *DenseReluDense fc1 fc2 linear1 linear2 intermediate",
             Role::kFeedForward, kNone},
    RoleRule{Scope::kAnywhere,
             "attn* *attn *attn# *_attn_* attention* *attention *Attention q_proj k_proj v_proj o_proj out_proj to_q "
             "to_k to_v to_out qkv* *qkv query key value add_*_proj",
             Role::kAttention, kNone},
};

}  // namespace

std::span<const RoleRule> RoleTable() { return kRules; }

}  // namespace arrow_quant
