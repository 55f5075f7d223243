#include "arrow_quant/orchestrate/run_key.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "arrow_quant/base/version.h"
#include "arrow_quant/io/checksum.h"
#include "arrow_quant/orchestrate/statistics_file.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::ordered_json;

class Hash {
 public:
  void Add(std::string_view text) {
    AddNumber(text.size());
    hash_.Update(text.data(), text.size());
  }
  void Add(const AlignedVector<float>& values) {
    AddNumber(values.size());
    hash_.Update(values.data(), values.size() * sizeof(float));
  }
  void Add(const Moments& m) {
    for (const double value : {m.count, m.mean, m.m2, static_cast<double>(m.min), static_cast<double>(m.max)}) {
      AddNumber(value);
    }
  }
  template <typename T>
  void AddNumber(T value) {
    hash_.Update(&value, sizeof value);
  }
  std::string Text() const { return FormatChecksum(hash_.Digest()); }

 private:
  Xxh64 hash_;
};

std::string Fingerprint(std::string_view text) {
  Hash hash;
  hash.Add(text);
  return hash.Text();
}

Json TransitionsJson(const ThermodynamicConfig& config) {
  const auto& [score, threshold, log] = config.validation;
  const auto& [smooth, window, interpolation] = config.boundary_smoothing;
  const auto& [damp, markov, entropy, rate, iterations, convergence, schedule] = config.transition_optimization;
  return {score,  threshold, log,  smooth,     window,      interpolation, damp,
          markov, entropy,   rate, iterations, convergence, schedule};
}

Json ActivationOptionsJson(const ActivationOptions& options) {
  const auto& [enable, strategy, groups, grouping, block_early, block_late, range, bits, transitions] = options;
  return {{"enable_time_aware", enable},
          {"strategy_time_aware", strategy},
          {"num_time_groups", groups},
          {"time_grouping", grouping},
          {"activation_block_early", block_early},
          {"activation_block_late", block_late},
          {"activation_range", range},
          {"activation_bits", bits},
          {"thermodynamic", TransitionsJson(transitions)}};
}

Json SpatialJson(const SpatialOptions& options) {
  const auto& [enabled, strategy, equalization, smoothing, hadamard, producers] = options;
  return {{"enable_spatial", enabled},    {"strategy_spatial", strategy},
          {"equalization", equalization}, {"smoothing", smoothing},
          {"hadamard", hadamard},         {"equalization_producers", Fingerprint(Json(producers).dump())}};
}

Json TimeWeightsJson(const TimeWeightOptions& options) {
  const auto& [sensitivity, given, detail] = options;
  return {{"sensitivity", sensitivity}, {"given", given}, {"detail", detail}};
}

Json OrNull(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

// Whether a size that cannot be had is an error changes no bytes.
Json PrecisionJson(const PrecisionOptions& options) {
  const auto& [enabled, size_mb, target_error, protect, sensitivity, strict] = options;
  if (!enabled) return {{"enable_mixed_precision", false}};
  return {{"enable_mixed_precision", true},
          {"target_size_mb", OrNull(size_mb)},
          {"target_error", OrNull(target_error)},
          {"sensitive_layers", protect},
          {"layer_sensitivity", sensitivity}};
}

// The structured binding names every option, so that one that is added later has to be thought of here.
Json OptionsJson(const ModelOptions& options) {
  const auto& [bit_width, group_size, strategy, rounding, grid, fit, order, rounds, dampening, diffusion, modality,
               min_accuracy, fallback, fail_fast, on_nonfinite, activations, spatial, time_weights, precision, plan,
               num_threads, overwrite, resume, layer_bit_widths, keep, quantize, transposed, components, variant] =
      options;
  Json json = {{"bit_width", bit_width},
               {"group_size", group_size},
               {"strategy", strategy},
               {"rounding", rounding},
               {"grid", grid},
               {"fit", fit},
               {"rounding_order", order == ColumnOrder::kNatural ? "natural" : "activation"},
               {"rounding_rounds", rounds},
               {"dampening", dampening},
               {"mode", diffusion ? "diffusion" : "base"},
               {"modality", modality ? Json(ModalityName(*modality)) : Json(nullptr)},
               {"min_accuracy", min_accuracy},
               {"fallback", fallback},
               {"fail_fast", fail_fast},
               {"on_nonfinite", on_nonfinite == OnNonFinite::kKeep ? "keep" : "error"},
               {"layer_bit_widths", layer_bit_widths},
               {"keep_patterns", keep},
               {"quantize_patterns", quantize},
               {"transposed_patterns", transposed},
               {"components", components},
               {"variant", variant ? Json(*variant) : Json(nullptr)}};
  json.update(ActivationOptionsJson(activations));
  json.update(SpatialJson(spatial));
  json["time_weighting"] = TimeWeightsJson(time_weights);
  json.update(PrecisionJson(precision));
  json["from_plan"] = plan ? Json(FormatPlan(*plan)) : Json(nullptr);
  return json;
}

void AddInput(const InputStatistics& input, Hash& hash) {
  const int groups = input.options().groups;
  for (int g = 0; g < (input.options().keep_groups ? groups : 1); ++g) {
    hash.Add(input.raw_second_moment(g));
    hash.Add(input.raw_drift(g));
  }
  for (int g = 0; g < groups; ++g) {
    for (const Moments& m : input.channel_moments(g)) hash.Add(m);
    hash.Add(input.held_out(g));
    hash.Add(input.held_out_reference(g));
  }
  for (const auto& [time, m] : input.timesteps()) {
    hash.AddNumber(time);
    hash.Add(m);
  }
}

std::string ActivationsFingerprint(const ActivationStatistics& statistics) {
  Hash hash;
  for (const double boundary : statistics.time_groups().boundaries()) hash.AddNumber(boundary);
  for (const double sensitivity : statistics.sensitivity()) hash.AddNumber(sensitivity);
  for (int i = 0; i < statistics.size(); ++i) AddInput(statistics.input(i), hash);
  for (const auto& [layer, inputs] : statistics.layers()) {
    hash.Add(layer.first);
    hash.Add(layer.second);
    for (const int i : inputs) hash.AddNumber(i);
  }
  return hash.Text();
}

std::string CalibrationFingerprint(const ModelCalibration& calibration) {
  std::string text = calibration.kind;
  if (const auto* file = dynamic_cast<const StatisticsFile*>(calibration.statistics)) {
    text += " " + file->Checksum();
  } else if (const auto* memory = dynamic_cast<const ActivationStatistics*>(calibration.statistics)) {
    text += " " + ActivationsFingerprint(*memory);
  }
  for (const double weight : calibration.time_weights) text += " " + Json(weight).dump();
  return text;
}

// The configurations decide on roles and modality, and so on what becomes of a tensor.
std::string DescriptionFingerprint(const ModelSource& source) {
  Hash hash;
  for (const SourceComponent& component : source.components) {
    hash.Add(component.name);
    hash.Add(component.config_json);
  }
  for (const std::string* text : {&source.config_json, &source.pipeline_json, &source.metadata_json}) hash.Add(*text);
  return hash.Text();
}

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

void Say(const std::string& change, std::string& text) { text += (text.empty() ? "" : ", ") + change; }

}  // namespace

std::string SourceFingerprint(const ModelSource& source) {
  std::string text;
  for (const SourceComponent& component : source.components) {
    char digits[17];
    std::snprintf(digits, sizeof(digits), "%016llx",
                  static_cast<unsigned long long>(component.checkpoint.Fingerprint()));
    text += (text.empty() ? "" : "-") + std::string(digits);
  }
  return text;
}

std::string RunKey(const ModelSource& source, const ModelOptions& options, const ModelCalibration& calibration) {
  return Dump({{"program", kVersion},
               {"source", SourceFingerprint(source) + " " + DescriptionFingerprint(source)},
               {"calibration", CalibrationFingerprint(calibration)},
               {"options", OptionsJson(options)}});
}

std::string DescribeKeyChange(const std::string& before, const std::string& now) {
  if (before == now) return "";
  const Json old = Json::parse(before, nullptr, false);
  const Json key = Json::parse(now);
  std::string text;
  const auto differs = [&](const char* part) { return !old.is_object() || old.value(part, Json()) != key[part]; };
  if (differs("program")) {
    const std::string version = old.is_object() ? old.value("program", "") : "";
    Say("the program's version was " + version + " and is " + key["program"].get<std::string>(), text);
  }
  if (differs("source")) Say("the source has changed", text);
  if (differs("calibration")) Say("the calibration has changed", text);
  const Json old_options = old.is_object() ? old.value("options", Json::object()) : Json::object();
  for (const auto& [name, value] : key["options"].items()) {
    const Json was = old_options.value(name, Json());
    if (was != value) Say(name + " was " + Dump(was) + " and is " + Dump(value), text);
  }
  return text.empty() ? "it is of another kind" : text;
}

}  // namespace arrow_quant
