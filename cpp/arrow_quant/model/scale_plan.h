#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "arrow_quant/io/tensor_info.h"

namespace arrow_quant {

// Which values of a weight share a scale: value = F8 value * scale[row / row_block, column / column_block].
struct ScaleShape {
  std::string scale;  // the tensor that holds them, [ceil(rows / row_block), ceil(columns / column_block)]
  std::int64_t row_block = 1;
  std::int64_t column_block = 1;
  std::int64_t count = 1;  // scales

  bool single() const { return count == 1; }
};

// What belongs together in a checkpoint with 8-bit float weights.
struct ScalePlan {
  std::map<std::string, ScaleShape> weights;  // by weight
  std::map<std::string, std::string> merged;  // tensors that end with the weight they belong to, by their own name
};

// Decides from headers how the scales that ScanForQuantization found apply. A scale is one number; [out, 1], one per
// output channel; or, when its name ends with "_scale_inv", one per block of 128 x 128 (DeepSeek-V3's technical report,
// section 3.3; despite the name it is multiplied). Scales of activations beside a weight are merged too: they mean
// nothing once the weight is not an 8-bit float. `config_json`: of the component; "" for none.
// Throws kUnsupported naming weight, scale and shapes for everything else.
ScalePlan PlanScales(const std::map<std::string, std::string>& scale_for, std::span<const TensorInfo> tensors,
                     std::string_view config_json);

}  // namespace arrow_quant
