#include "arrow_quant/model/prequantized.h"

#include <algorithm>
#include <array>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "arrow_quant/io/json_internal.h"

namespace arrow_quant {
namespace {

struct Mark {
  std::string_view ending;
  std::string_view method;
};

// Endings of tensors that only quantized models have. Where two methods share one, both are named.
constexpr std::array kMarks = {
    Mark{".qweight", "GPTQ or AWQ"},
    Mark{".qzeros", "GPTQ or AWQ"},
    Mark{".weight_packed", "compressed-tensors"},
    Mark{".weight_zero_point", "compressed-tensors"},
    Mark{".SCB", "bitsandbytes int8"},
    Mark{".absmax", "bitsandbytes 4-bit"},
    Mark{".quant_map", "bitsandbytes 4-bit"},
    Mark{".quant_state.bitsandbytes__nf4", "bitsandbytes nf4"},
    Mark{".quant_state.bitsandbytes__fp4", "bitsandbytes fp4"},
    Mark{".weight._data", "quanto"},
    Mark{".W_q", "HQQ"},
    Mark{".codebooks", "AQLM"},
    Mark{".wscales", "SVDQuant"},
    Mark{"_proj_blocks", "MXFP4"},
    Mark{".weight_scale_2", "NVFP4"},
};

// Methods of quantization_config whose weights are 8-bit floats with a scale beside each.
constexpr std::array<std::string_view, 4> kFloat8Methods = {"fp8", "fbgemm_fp8", "compressed-tensors", "modelopt"};

// `quant_method` of config.json, or "unnamed" for a quantization_config without one.
std::string ConfiguredMethod(std::string_view config_json) {
  if (config_json.empty()) return {};
  const nlohmann::json config = ParseJson(config_json, "config.json", kPythonJson);
  const auto found = config.is_object() ? config.find("quantization_config") : config.end();
  if (!config.is_object() || found == config.end() || !found->is_object()) return {};
  const std::string method = StringAt(*found, "quant_method");
  return method.empty() ? "unnamed" : method;
}

using NameSet = std::unordered_set<std::string_view>;

// The scale that belongs to a weight, by the names that model makers use; "" for none.
std::string ScaleBeside(const std::string& weight, const NameSet& names) {
  for (const std::string_view ending : {"_scale", "_scale_inv"}) {
    const std::string name = weight + std::string(ending);
    if (names.contains(name)) return name;
  }
  constexpr std::string_view kWeight = ".weight";
  if (!weight.ends_with(kWeight)) return {};
  const std::string module = weight.substr(0, weight.size() - kWeight.size());
  for (const std::string_view ending : {".scale_weight", ".scale_inv", ".scale"}) {
    const std::string name = module + std::string(ending);
    if (names.contains(name)) return name;
  }
  return {};
}

bool IsFloat8(DType dtype) { return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2; }

bool IsByteInteger(DType dtype) { return dtype == DType::kI8 || dtype == DType::kU8; }

void ScanTensors(std::span<const TensorInfo> tensors, PrequantizedScan& scan) {
  NameSet names;
  for (const TensorInfo& info : tensors) names.insert(info.name);
  for (const TensorInfo& info : tensors) {
    for (const Mark& mark : kMarks) {
      if (scan.method.empty() && info.name.ends_with(mark.ending)) {
        scan.method = mark.method;
        scan.evidence = "the tensor '" + info.name + "'";
      }
    }
    if (!IsFloat8(info.dtype) && !IsByteInteger(info.dtype)) continue;
    std::string scale = ScaleBeside(info.name, names);
    if (scale.empty()) continue;
    if (IsFloat8(info.dtype)) {
      scan.scale_for.emplace(info.name, std::move(scale));
    } else if (scan.method.empty()) {
      scan.method = "8-bit integers with scales";
      scan.evidence = "the tensors '" + info.name + "' and '" + scale + "'";
    }
  }
}

}  // namespace

PrequantizedScan ScanForQuantization(std::string_view config_json, std::span<const TensorInfo> tensors) {
  PrequantizedScan scan;
  ScanTensors(tensors, scan);
  const std::string configured = ConfiguredMethod(config_json);
  if (!configured.empty() && scan.method.empty()) {
    const bool float8 = std::find(kFloat8Methods.begin(), kFloat8Methods.end(), configured) != kFloat8Methods.end();
    if (!float8 || scan.scale_for.empty()) {
      scan.method = configured;
      scan.evidence = "quantization_config in config.json";
    }
  }
  return scan;
}

}  // namespace arrow_quant
