#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "arrow_quant/io/tensor_info.h"

namespace arrow_quant {

// What is already quantized in a model.
struct PrequantizedScan {
  std::string method;    // of an already quantized model that cannot be read as floats: "GPTQ"; empty otherwise
  std::string evidence;  // what showed it
  // For each 8-bit float weight with a scale beside it, the scale's name: weight = F8 value * scale, the scale being
  // one number, one per output channel, or one per block of the weight.
  std::map<std::string, std::string> scale_for;
};

// Looks at `quantization_config` of config.json ("" for none) and at the tensors' names and dtypes. 8-bit floats with
// scales beside them, and 8-bit floats without any, are readable; everything else that is quantized gets a method.
// Throws kCorruptFile for malformed JSON.
PrequantizedScan ScanForQuantization(std::string_view config_json, std::span<const TensorInfo> tensors);

}  // namespace arrow_quant
