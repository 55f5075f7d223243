#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/base/name_pattern.h"
#include "arrow_quant/io/tensor_info.h"
#include "arrow_quant/model/architecture.h"
#include "arrow_quant/model/matrix_shape.h"
#include "arrow_quant/model/roles.h"

namespace arrow_quant {

// What to change in the default keep list. Patterns are those of NamePattern.
struct KeepOptions {
  std::vector<std::string> keep_patterns = {};        // also kept; stronger than quantize_patterns
  std::vector<std::string> quantize_patterns = {};    // quantized although the defaults keep them
  std::vector<std::string> transposed_patterns = {};  // transposed convolutions: output channels on axis 1
  // Smaller matrices are kept: fewer weights than this cost less than the scale and zero point of their group.
  std::int64_t min_columns = 8;
  std::int64_t min_elements = 64;
};

// What happens to one tensor, and why.
struct TensorDecision {
  bool quantize = false;
  LayerRole role = LayerRole::kOther;
  std::string reason;  // why it is kept, or its role where it is quantized
  MatrixShape matrix;  // the view in which it is quantized
};

class KeepList {
 public:
  // Throws kConfiguration as NamePattern does.
  explicit KeepList(const KeepOptions& options = {});

  // Every tensor gets a decision; one for each, in their order. Integers, vectors and empty tensors are always kept.
  // Where no name tells the first or last convolution, the only one with the model's input or output channels is it.
  std::vector<TensorDecision> Decide(std::span<const TensorInfo> tensors, const Architecture& architecture) const;

  // The user's patterns that fit no tensor: probably misspelt.
  std::vector<std::string> UnmatchedPatterns(std::span<const TensorInfo> tensors) const;

 private:
  static const NamePattern* FirstMatch(const std::vector<NamePattern>& patterns, const std::string& name);

  TensorDecision DecideOne(const TensorInfo& info, const Architecture& architecture) const;
  void ApplyUserAndSize(const TensorInfo& info, std::string_view keep_reason, TensorDecision& decision) const;
  void KeepEnd(std::span<const TensorInfo> tensors, std::size_t axis, std::optional<std::int64_t> channels,
               LayerRole role, std::vector<TensorDecision>& decisions) const;

  std::int64_t min_columns_;
  std::int64_t min_elements_;
  std::vector<NamePattern> keep_;
  std::vector<NamePattern> quantize_;
  std::vector<NamePattern> transposed_;
};

}  // namespace arrow_quant
