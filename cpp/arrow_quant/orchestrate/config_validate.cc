// Ranges of single values, and values that contradict each other.

#include <algorithm>
#include <cmath>
#include <set>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/name_pattern.h"
#include "arrow_quant/io/utf8.h"
#include "arrow_quant/orchestrate/config.h"
#include "arrow_quant/orchestrate/config_fields.h"

namespace arrow_quant {
namespace {

bool InRange(double value, const FieldLimits& limits) {
  if (!std::isfinite(value) || value > limits.maximum) return false;
  return limits.above_minimum ? value > limits.minimum : value >= limits.minimum;
}

bool IsAllowed(bool, const FieldLimits&) { return true; }

bool IsAllowed(std::int64_t value, const FieldLimits& limits) {
  if (limits.numbers.empty()) return InRange(static_cast<double>(value), limits);
  return std::find(limits.numbers.begin(), limits.numbers.end(), value) != limits.numbers.end();
}

bool IsAllowed(int value, const FieldLimits& limits) { return IsAllowed(std::int64_t{value}, limits); }

bool IsAllowed(double value, const FieldLimits& limits) { return InRange(value, limits); }

bool IsAllowed(const std::string& value, const FieldLimits& limits) {
  if (!limits.words.empty()) return std::find(limits.words.begin(), limits.words.end(), value) != limits.words.end();
  return (limits.may_be_empty || !value.empty()) && value.find('\0') == std::string::npos && IsValidUtf8(value);
}

template <typename T>
bool IsAllowed(const std::optional<T>& value, const FieldLimits& limits) {
  return !value || IsAllowed(*value, limits);
}

bool IsAllowed(const std::vector<std::string>& values, const FieldLimits& limits) {
  return std::all_of(values.begin(), values.end(), [&](const auto& value) { return IsAllowed(value, limits); });
}

bool IsAllowed(const LayerBitWidths& values, const FieldLimits& limits) {
  return std::all_of(values.begin(), values.end(), [&](const auto& entry) {
    return IsAllowed(entry.first, FieldLimits{}) && IsAllowed(entry.second, limits);
  });
}

bool IsAllowed(const TimeWeighting& value, const FieldLimits& limits) {
  const auto* weights = std::get_if<std::vector<double>>(&value);
  if (weights == nullptr) return IsAllowed(std::get<std::string>(value), limits);
  const bool valid = std::all_of(weights->begin(), weights->end(), [&](double w) { return InRange(w, limits); });
  return valid && std::any_of(weights->begin(), weights->end(), [](double w) { return w > 0; });
}

void CheckPattern(const ConfigField& field, const std::string& pattern) {
  static_cast<void>(NamePattern(pattern, field.name));
}

template <typename T>
void CheckPatterns(const ConfigField&, const T&) {}

void CheckPatterns(const ConfigField& field, const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) CheckPattern(field, pattern);
}

void CheckPatterns(const ConfigField& field, const LayerBitWidths& widths) {
  std::set<std::string> seen;
  for (const auto& [pattern, bits] : widths) {
    CheckPattern(field, pattern);
    if (!seen.insert(pattern).second) {
      throw Error(ErrorCode::kConfiguration, "layer_bit_widths: '" + pattern + "' is given twice",
                  {.remedy = "Remove one of the two."});
    }
  }
}

void CheckObjective(const DiffusionQuantConfig& config) {
  const auto* word = std::get_if<std::string>(&config.time_weighting);
  if (config.objective != "detail" || (word != nullptr && *word == "uniform")) return;
  throw Error(ErrorCode::kConfiguration,
              "objective is detail, but time_weighting is " + (word != nullptr ? *word : std::string("a list")) +
                  ", which weights time groups in another way",
              {.remedy = "Set one of the two: objective to trajectory, or time_weighting to uniform."});
}

void CheckTimeWeights(const DiffusionQuantConfig& config) {
  const auto* weights = std::get_if<std::vector<double>>(&config.time_weighting);
  if (weights == nullptr) return;
  if (config.time_grouping != "uniform") {
    throw Error(ErrorCode::kConfiguration, "time_weighting is a list, but time_grouping is " + config.time_grouping,
                {.remedy = "Set time_grouping to uniform: other groups are not known beforehand."});
  }
  if (weights->size() == static_cast<std::size_t>(config.num_time_groups)) return;
  throw Error(ErrorCode::kConfiguration,
              "time_weighting has " + std::to_string(weights->size()) + " values, but num_time_groups is " +
                  std::to_string(config.num_time_groups),
              {.remedy = "Give one value for each time group."});
}

bool AnyLayerHasTwoBits(const DiffusionQuantConfig& config) {
  return config.bit_width == 2 || config.enable_mixed_precision ||
         std::any_of(config.layer_bit_widths.begin(), config.layer_bit_widths.end(),
                     [](const auto& entry) { return entry.second == 2; });
}

void CheckCombinations(const DiffusionQuantConfig& config) {
  CheckObjective(config);
  CheckTimeWeights(config);
  if (config.rounding == "ldlq" && config.calibration == "none") {
    throw Error(ErrorCode::kConfiguration, "rounding is ldlq, which needs activations, but calibration is none",
                {.remedy = "Set rounding to auto or nearest, or calibration to auto."});
  }
  if (config.grid == "residual_binary" && !AnyLayerHasTwoBits(config)) {
    throw Error(ErrorCode::kConfiguration,
                "grid is residual_binary, which has 2 bits, but bit_width is " + std::to_string(config.bit_width),
                {.remedy = "Set grid to auto or affine, or bit_width to 2."});
  }
}

}  // namespace

void DiffusionQuantConfig::Validate() const {
  DiffusionQuantConfig copy = *this;  // the table's accessors give mutable references
  for (const ConfigField& field : ConfigFields()) {
    const auto check = [&](auto ref) {
      const auto& value = ref(copy);
      if (!IsAllowed(value, field.limits)) ThrowBadValue(field, FieldValueJson(field, copy));
      if (field.limits.pattern) CheckPatterns(field, value);
    };
    std::visit(check, field.access);
  }
  CheckCombinations(*this);
}

}  // namespace arrow_quant
