#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "arrow_quant/base/dtype.h"
#include "arrow_quant/model/architecture.h"

namespace arrow_quant {

// What a tensor does in its model.
enum class LayerRole {
  kAttention,  // query, key, value and output projections
  kFeedForward,
  kModulation,  // linears inside blocks that make scale and shift from the timestep (adaLN, time_emb_proj)
  kConvolution,
  kExpert,     // of a mixture of experts: one expert's matrix, or all of them stacked in one tensor
  kLinear,     // a matrix of no other role
  kEmbedding,  // tokens, labels, text and other conditions
  kTimestepEmbedder,
  kPositionEmbedding,
  kFirstLayer,  // patch embedding, first convolution
  kFinalLayer,
  kNorm,
  kBias,
  kLmHead,
  kRouter,  // chooses experts
  kOther,   // buffers, tables, bare parameters, parts of other components
};

// "attention", "feed_forward", ...
std::string_view LayerRoleName(LayerRole role);

struct RoleDecision {
  LayerRole role = LayerRole::kOther;
  std::string_view keep_reason;  // why a tensor of this role is kept by default; empty when it is quantized
};

// The role of the tensor named `text` ("transformer_blocks.0.attn1.to_q.weight") by the rules of role_table.cc. Looks
// at names first and at the rank (from `shape`) where the name tells nothing. Whether the tensor is large enough is not
// asked here.
RoleDecision ClassifyTensor(std::string_view text, std::span<const std::int64_t> shape, DType dtype,
                            ModelFamily family = ModelFamily::kUnknown);

}  // namespace arrow_quant
