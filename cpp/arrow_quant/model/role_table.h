#pragma once

#include <span>
#include <string_view>

#include "arrow_quant/model/roles.h"

namespace arrow_quant {

// Where in a name a rule looks. A name is split at its dots, without a last "weight"; the "top" is everything before
// the first number, which is where the numbered blocks of a network begin.
enum class RoleScope {
  kAnywhere,
  kTop,      // outside of the blocks
  kTopLast,  // outside of the blocks, and the last part
  kLast,     // the last part: the layer's own name
  kBare,     // the last part of a parameter that is not called weight
};

// One rule. The first rule of the table that fits gives the role.
struct RoleRule {
  RoleScope scope;
  // Alternatives, separated by spaces. `*` stands for any text in a part, `#` for a number; "a.b" for two parts in a
  // row.
  std::string_view patterns;
  LayerRole role;
  std::string_view keep_reason;                // empty: quantized
  ModelFamily family = ModelFamily::kUnknown;  // only for this family; kUnknown for all
};

std::span<const RoleRule> RoleTable();

}  // namespace arrow_quant
