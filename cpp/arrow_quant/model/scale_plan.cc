#include "arrow_quant/model/scale_plan.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/json_internal.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kBlock = 128;
using ByName = std::unordered_map<std::string_view, const TensorInfo*>;

std::string ShapeText(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + "]";
}

[[noreturn]] void Refuse(const TensorInfo& weight, const TensorInfo& scale, const std::string& why) {
  throw Error(ErrorCode::kUnsupported,
              "an 8-bit float weight " + ShapeText(weight.shape) + " with the scale '" + scale.name + "' " +
                  ShapeText(scale.shape) + ": " + why,
              {.tensor = weight.name, .remedy = "Convert the model to bfloat16 with its own tools first."});
}

// The names whose meaning is settled; ".scale" and ".scale_inv" are multiplied by some tools and divided by others.
bool IsMultiplied(std::string_view scale) {
  return scale.ends_with("_scale") || scale.ends_with("_scale_inv") || scale.ends_with(".scale_weight");
}

// Blocks of another size could have as many scales as blocks of 128.
void CheckConfiguredBlock(const TensorInfo& weight, const TensorInfo& scale, std::string_view config_json) {
  if (config_json.empty()) return;
  const nlohmann::json config = ParseJson(config_json, "config.json", kPythonJson);
  const nlohmann::json::json_pointer key("/quantization_config/weight_block_size");
  if (!config.is_object() || !config.contains(key) || config.at(key).is_null()) return;
  if (config.at(key) != nlohmann::json{kBlock, kBlock}) {
    Refuse(weight, scale, "weight_block_size of config.json is " + config.at(key).dump() + ", not [128, 128]");
  }
}

std::int64_t Blocks(std::int64_t n) { return (n + kBlock - 1) / kBlock; }

ScaleShape ShapeOf(const TensorInfo& weight, const TensorInfo& scale, std::string_view config_json) {
  if (!IsMultiplied(scale.name)) Refuse(weight, scale, "the name does not tell whether to multiply or to divide");
  if (!IsFloat(scale.dtype)) Refuse(weight, scale, "it is of type " + std::string(TorchName(scale.dtype)));
  ScaleShape shape{.scale = scale.name, .count = scale.num_elements};
  if (scale.num_elements == 1) {
    shape.row_block = shape.column_block = std::max<std::int64_t>(1, weight.num_elements);
    return shape;
  }
  if (weight.shape.size() == 2 && scale.shape == std::vector<std::int64_t>{weight.shape[0], 1}) {
    shape.column_block = std::max<std::int64_t>(1, weight.shape[1]);
    return shape;
  }
  const bool blocks = weight.shape.size() == 2 && scale.name.ends_with("_scale_inv") &&
                      scale.shape == std::vector{Blocks(weight.shape[0]), Blocks(weight.shape[1])};
  if (!blocks) Refuse(weight, scale, "it is neither one number, nor [out, 1], nor one for each block of 128 x 128");
  CheckConfiguredBlock(weight, scale, config_json);
  shape.row_block = shape.column_block = kBlock;
  return shape;
}

// Scales of the layer's inputs, as several tools write them.
void MergeActivationScales(const std::string& weight, const ByName& tensors, ScalePlan& plan) {
  constexpr std::string_view kWeight = ".weight";
  if (!weight.ends_with(kWeight)) return;
  const std::string module = weight.substr(0, weight.size() - kWeight.size());
  for (const std::string_view ending : {".input_scale", ".scale_input", ".activation_scale"}) {
    const std::string name = module + std::string(ending);
    if (tensors.contains(name)) plan.merged.emplace(name, weight);
  }
}

}  // namespace

ScalePlan PlanScales(const std::map<std::string, std::string>& scale_for, std::span<const TensorInfo> tensors,
                     std::string_view config_json) {
  ScalePlan plan;
  if (scale_for.empty()) return plan;
  ByName by_name;
  for (const TensorInfo& info : tensors) by_name.emplace(info.name, &info);
  for (const auto& [weight, scale] : scale_for) {
    plan.weights.emplace(weight, ShapeOf(*by_name.at(weight), *by_name.at(scale), config_json));
    plan.merged.emplace(scale, weight);
    MergeActivationScales(weight, by_name, plan);
  }
  return plan;
}

}  // namespace arrow_quant
