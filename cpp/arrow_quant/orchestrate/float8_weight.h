#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/io/checkpoint.h"
#include "arrow_quant/model/scale_plan.h"

namespace arrow_quant {

// An 8-bit float weight with its scale applied.
struct ExpandedWeight {
  TensorInfo info;  // as the weight's, but float32
  AlignedVector<float> values;

  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(values)); }
};

// Reads weight and scale from the checkpoint and multiplies them, in float32.
ExpandedWeight ExpandFloat8(const Checkpoint& checkpoint, const TensorInfo& weight, const ScaleShape& shape);

// Rounds to bfloat16, to nearest even: the type in which such a weight is stored when it is kept.
std::vector<std::byte> ToBFloat16Bytes(std::span<const float> values);

}  // namespace arrow_quant
