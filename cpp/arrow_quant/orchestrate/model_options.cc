#include "arrow_quant/orchestrate/model_options.h"

#include <nlohmann/json.hpp>

#include "arrow_quant/base/error.h"
#include "arrow_quant/quantize/base_quantizer.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::json;

template <typename T>
void Read(const Json& json, const char* key, T& value) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return;
  try {
    value = it->get<T>();
  } catch (const Json::exception&) {
    throw Error(ErrorCode::kConfiguration, std::string(key) + " has the value " + it->dump() + " of another type",
                {.remedy = "See docs/quickstart.md for the options and their types."});
  }
}

template <typename T>
void ReadOptional(const Json& json, const char* key, std::optional<T>& value) {
  T present{};
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return;
  Read(json, key, present);
  value = std::move(present);
}

[[noreturn]] void ThrowValue(const char* key, const std::string& value, const char* allowed) {
  throw Error(ErrorCode::kConfiguration, std::string(key) + " is '" + value + "'",
              {.remedy = std::string("Use ") + allowed + "."});
}

void ReadNames(const Json& json, ModelOptions& options) {
  std::string fit = "auto";
  Read(json, "fit", fit);
  if (fit == "fitted") {
    options.fit = GridFit::kFitted;
  } else if (fit != "auto" && fit != "min_max") {
    ThrowValue("fit", fit, "auto, min_max or fitted");
  }
  std::string non_finite = "error";
  Read(json, "on_nonfinite", non_finite);
  if (non_finite == "keep") {
    options.on_nonfinite = OnNonFinite::kKeep;
  } else if (non_finite != "error") {
    ThrowValue("on_nonfinite", non_finite, "error or keep");
  }
  std::string modality;
  Read(json, "modality", modality);
  if (modality.empty()) return;
  options.modality = ModalityFromName(modality);
  if (!options.modality) ThrowValue("modality", modality, "text, code, image or audio");
}

}  // namespace

ModelOptions ModelOptionsFromJson(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) throw Error(ErrorCode::kConfiguration, "the options are not a JSON object");
  ModelOptions options;
  Read(json, "bit_width", options.bit_width);
  Read(json, "group_size", options.group_size);
  Read(json, "diffusion", options.diffusion);
  Read(json, "min_accuracy", options.min_accuracy);
  Read(json, "fallback", options.fallback);
  Read(json, "fail_fast", options.fail_fast);
  Read(json, "num_threads", options.num_threads);
  Read(json, "overwrite", options.overwrite);
  Read(json, "keep_patterns", options.keep_patterns);
  Read(json, "quantize_patterns", options.quantize_patterns);
  Read(json, "transposed_patterns", options.transposed_patterns);
  Read(json, "components", options.components);
  ReadOptional(json, "variant", options.variant);
  ReadNames(json, options);
  CheckBaseOptions({.bits = options.bit_width, .group_size = options.group_size});
  return options;
}

}  // namespace arrow_quant
