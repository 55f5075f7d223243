#include "arrow_quant/orchestrate/model_options.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/quantize/base_quantizer.h"

namespace arrow_quant {
namespace {

// Ordered: rules for layers are tried as they were written.
using Json = nlohmann::ordered_json;

[[noreturn]] void ThrowType(const std::string& key, const Json& value) {
  throw Error(ErrorCode::kConfiguration, key + " has the value " + value.dump() + " of another type",
              {.remedy = "See docs/quickstart.md for the options and their types."});
}

// The library converts between numbers whatever their range.
template <typename T>
bool Fits(const Json& value) {
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    if (!value.is_number_integer()) return false;
    return value.is_number_unsigned() ? std::in_range<T>(value.get<std::uint64_t>())
                                      : std::in_range<T>(value.get<std::int64_t>());
  } else {
    return true;
  }
}

template <typename T>
void ReadValue(const std::string& key, const Json& json, T& value) {
  if (!Fits<T>(json)) ThrowType(key, json);
  try {
    value = json.get<T>();
  } catch (const Json::exception&) {
    ThrowType(key, json);
  }
}

template <typename T>
void Read(const Json& json, const char* key, T& value) {
  const auto it = json.find(key);
  if (it != json.end() && !it->is_null()) ReadValue(key, *it, value);
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

void ReadWord(const Json& json, const char* key, const std::vector<std::string>& words, std::string& value) {
  Read(json, key, value);
  if (std::find(words.begin(), words.end(), value) != words.end()) return;
  std::string allowed;
  for (const std::string& word : words) allowed += (allowed.empty() ? "" : ", ") + word;
  ThrowValue(key, value, allowed.c_str());
}

void ReadNames(const Json& json, ModelOptions& options) {
  ReadWord(json, "strategy", {"auto", "gptq", "r2q", "none"}, options.strategy);
  ReadWord(json, "rounding", {"auto", "nearest", "ldlq"}, options.rounding);
  ReadWord(json, "grid", {"auto", "affine", "residual_binary"}, options.grid);
  ReadWord(json, "fit", {"auto", "min_max", "fitted"}, options.fit);
  std::string order = "activation";
  ReadWord(json, "rounding_order", {"activation", "natural"}, order);
  options.order = order == "natural" ? ColumnOrder::kNatural : ColumnOrder::kActivation;
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

// The object `key` of `json`; an empty one where there is none.
Json Section(const Json& json, const char* key) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return Json::object();
  if (!it->is_object()) ThrowType(key, *it);
  return *it;
}

void ReadTransitions(const Json& json, ThermodynamicConfig& options) {
  const Json validation = Section(json, "validation");
  Read(validation, "enabled", options.validation.enabled);
  Read(validation, "smoothness_threshold", options.validation.smoothness_threshold);
  Read(validation, "log_violations", options.validation.log_violations);
  const Json smoothing = Section(json, "boundary_smoothing");
  Read(smoothing, "enabled", options.boundary_smoothing.enabled);
  Read(smoothing, "window_size", options.boundary_smoothing.window_size);
  ReadWord(smoothing, "interpolation", {"linear", "cubic", "sigmoid"}, options.boundary_smoothing.interpolation);
  const Json transition = Section(json, "transition_optimization");
  Read(transition, "enabled", options.transition_optimization.enabled);
  Read(transition, "markov_weight", options.transition_optimization.markov_weight);
  Read(transition, "entropy_weight", options.transition_optimization.entropy_weight);
  Read(transition, "learning_rate", options.transition_optimization.learning_rate);
  Read(transition, "max_iterations", options.transition_optimization.max_iterations);
  Read(transition, "convergence_threshold", options.transition_optimization.convergence_threshold);
  ReadWord(transition, "beta_schedule", {"linear", "cosine"}, options.transition_optimization.beta_schedule);
}

void ReadActivations(const Json& json, ActivationOptions& options) {
  Read(json, "enable_time_aware", options.enable_time_aware);
  ReadWord(json, "strategy_time_aware", {"auto", "always", "never"}, options.strategy_time_aware);
  Read(json, "num_time_groups", options.time_groups);
  ReadWord(json, "time_grouping", {"uniform", "auto"}, options.grouping);
  Read(json, "activation_bits", options.bits);
  Read(json, "activation_block_early", options.block_early);
  Read(json, "activation_block_late", options.block_late);
  ReadWord(json, "activation_range", {"auto", "min_max", "percentile", "mse"}, options.range);
  ReadTransitions(Section(json, "thermodynamic"), options.transitions);
  if (options.time_groups < 1) ThrowValue("num_time_groups", std::to_string(options.time_groups), "1 or more");
  if (options.block_early < 1 || options.block_late < 1) {
    throw Error(ErrorCode::kConfiguration, "activation_block_early and activation_block_late are 1 or more");
  }
}

void ReadSpatial(const Json& json, SpatialOptions& options) {
  Read(json, "enable_spatial", options.enabled);
  ReadWord(json, "strategy_spatial", {"auto", "always", "never"}, options.strategy);
  ReadWord(json, "equalization", {"auto", "none", "balance", "grid"}, options.equalization);
  ReadWord(json, "smoothing", {"auto", "none", "shift"}, options.smoothing);
  ReadWord(json, "hadamard", {"auto", "none", "block"}, options.hadamard);
  Read(json, "equalization_producers", options.producers);
}

void ReadTimeWeights(const Json& json, TimeWeightOptions& options) {
  std::string objective = "trajectory";
  ReadWord(json, "objective", {"trajectory", "detail"}, objective);
  options.detail = objective == "detail";
  const auto it = json.find("time_weighting");
  if (it == json.end() || it->is_null()) return;
  if (it->is_array()) {
    ReadValue("time_weighting", *it, options.given);
    return;
  }
  std::string weighting;
  ReadWord(json, "time_weighting", {"uniform", "sensitivity"}, weighting);
  options.sensitivity = weighting == "sensitivity";
}

std::string EscapedName(const std::string& name) {
  std::string pattern = "^";
  for (char c : name) {
    if (std::string_view("\\^$.|?*+()[]{}").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern + "(\\.weight)?$";
}

void ReadLayerRules(const Json& json, ModelOptions& options) {
  if (const auto it = json.find("layer_bit_widths"); it != json.end()) {
    if (!it->is_object()) ThrowType("layer_bit_widths", *it);
    for (const auto& [pattern, bits] : it->items()) {
      ReadValue("layer_bit_widths", bits, options.layer_bit_widths.emplace_back(pattern, 0).second);
    }
  }
  bool skip_sensitive = false;
  Read(json, "skip_sensitive_layers", skip_sensitive);
  std::vector<std::string> names;
  std::vector<std::string> patterns;
  Read(json, "sensitive_layer_names", names);
  Read(json, "sensitive_layer_patterns", patterns);
  std::vector<std::string>& protection = skip_sensitive ? options.keep_patterns : options.precision.protect;
  for (const std::string& name : names) protection.push_back(EscapedName(name));
  protection.insert(protection.end(), patterns.begin(), patterns.end());
}

void ReadPrecision(const Json& json, PrecisionOptions& options) {
  Read(json, "enable_mixed_precision", options.enabled);
  Read(json, "strict", options.strict);
  ReadOptional(json, "target_error", options.target_error);
  ReadOptional(json, "target_size_mb", options.size_mb);
  ReadOptional(json, "target_model_size_mb", options.size_mb);
  Read(json, "layer_sensitivity", options.sensitivity);
  for (const auto& [component, layers] : options.sensitivity) {
    for (const auto& [name, value] : layers) {
      if (!(value >= 0) || !std::isfinite(value)) {
        ThrowValue("layer_sensitivity", name + ": " + std::to_string(value), "finite numbers of at least 0");
      }
    }
  }
}

void ReadPlan(const Json& json, ModelOptions& options) {
  std::string file;
  Read(json, "from_plan", file);
  if (!file.empty()) options.plan = std::make_shared<const SavedPlan>(LoadPlan(file));
  if (options.plan && options.precision.enabled) {
    throw Error(ErrorCode::kConfiguration, "from_plan and enable_mixed_precision both choose the bits of layers",
                {.file = file, .remedy = "Leave one of them out."});
  }
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
  Read(json, "rounding_rounds", options.rounds);
  Read(json, "dampening", options.dampening);
  Read(json, "fallback", options.fallback);
  Read(json, "fail_fast", options.fail_fast);
  Read(json, "num_threads", options.num_threads);
  Read(json, "overwrite", options.overwrite);
  Read(json, "resume", options.resume);
  Read(json, "keep_patterns", options.keep_patterns);
  Read(json, "quantize_patterns", options.quantize_patterns);
  Read(json, "transposed_patterns", options.transposed_patterns);
  Read(json, "components", options.components);
  ReadOptional(json, "variant", options.variant);
  ReadNames(json, options);
  ReadActivations(json, options.activations);
  ReadTimeWeights(json, options.time_weights);
  ReadSpatial(json, options.spatial);
  ReadLayerRules(json, options);
  ReadPrecision(json, options.precision);
  ReadPlan(json, options);
  CheckBaseOptions({.bits = options.bit_width, .group_size = options.group_size});
  return options;
}

// By way of JSON: one table says what this version can do, for both languages.
ModelOptions ModelOptionsFromConfig(const DiffusionQuantConfig& config) {
  return ModelOptionsFromJson(config.ToJson());
}

}  // namespace arrow_quant
