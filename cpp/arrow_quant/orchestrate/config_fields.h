#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "arrow_quant/orchestrate/config.h"

namespace arrow_quant {

// A reference to one member of a configuration; its type is the field's type.
template <typename T>
using FieldRef = T& (*)(DiffusionQuantConfig&);

using FieldAccess =
    std::variant<FieldRef<bool>, FieldRef<int>, FieldRef<std::int64_t>, FieldRef<double>, FieldRef<std::string>,
                 FieldRef<std::optional<std::string>>, FieldRef<std::optional<double>>,
                 FieldRef<std::vector<std::string>>, FieldRef<LayerBitWidths>, FieldRef<TimeWeighting>>;

// The values that a field may have. Lists apply it to every element, layer_bit_widths to every width.
struct FieldLimits {
  std::vector<std::string_view> words = {};  // allowed texts; empty: any text but the empty one
  std::vector<int> numbers = {};             // allowed integers; empty: the range
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  bool above_minimum = false;  // the minimum itself is not allowed
  bool may_be_empty = false;   // the empty text is allowed too
  bool pattern = false;        // texts are regular expressions (ECMAScript)
  std::string_view note = {};  // what a reader of the error should know besides
};

// One row of the table: everything about a key but its defaults, which are in the profiles.
struct ConfigField {
  std::string_view name;  // "bit_width", "thermodynamic.validation.enabled"
  std::string_view group;
  FieldAccess access;
  FieldLimits limits;
  std::string_view doc;           // one sentence or two
  std::string_view old_env = {};  // an older name of its environment variable
  bool has_effect = true;         // false: accepted for older files
};

// The table, in the order of documents and of ToJson().
std::span<const ConfigField> ConfigFields();

// The field of that exact name, or null.
const ConfigField* FindConfigField(std::string_view name);

// The field whose name is nearest by edit distance relative to length, case and '-' aside; null when none is near.
const ConfigField* NearestConfigField(std::string_view name);

// "bool", "int", "float", "string", "string?", "float?", "list[string]", "map[string,int]", "string|list[float]".
std::string_view FieldTypeName(const ConfigField& field);

// What a value must be, to follow "it must be ": "an integer from 1 to 100", "auto, nearest or ldlq".
std::string FieldExpectation(const ConfigField& field);

// The field's environment variables: the derived name ("ARROW_QUANT_THERMODYNAMIC_VALIDATION_ENABLED") and an older
// one.
std::vector<std::string> FieldEnvironmentNames(const ConfigField& field);

// The field's value in `config` as JSON text.
std::string FieldValueJson(const ConfigField& field, const DiffusionQuantConfig& config);

// The names that FromProfile accepts.
std::span<const std::string_view> ConfigProfiles();

// The whole table as a JSON array for other languages: name, type, group, doc, expectation, env, has_effect, pattern,
// words, numbers, minimum, maximum, above_minimum, and defaults by profile.
std::string ConfigFieldsJson();

// Throws kConfiguration: "NAME is VALUE; it must be EXPECTATION". `value` is JSON text and is shortened.
[[noreturn]] void ThrowBadValue(const ConfigField& field, std::string_view value);

}  // namespace arrow_quant
