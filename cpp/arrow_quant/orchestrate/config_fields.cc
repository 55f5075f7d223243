#include "arrow_quant/orchestrate/config_fields.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <numeric>
#include <type_traits>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/text.h"

namespace arrow_quant {
namespace {

// Longer values are cut in messages.
constexpr std::size_t kMaxShownBytes = 80;

// Lower case, '-' as '_': what people mean by a key.
std::string Normalize(std::string_view name) {
  std::string text(name);
  for (char& c : text) c = c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

// Levenshtein distance.
std::size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

// Least for equal names, 1 for names that have nothing in common. A common beginning counts for more than its letters:
// "bits" is nearer to "bit_width" than to "fit".
double NameDistance(std::string_view wanted, std::string_view name) {
  constexpr std::size_t kBeginning = 3;
  constexpr double kBonus = 0.2;
  const double letters = static_cast<double>(std::max(wanted.size(), name.size()));
  const double distance = static_cast<double>(EditDistance(wanted, name)) / letters;
  const bool same_beginning = wanted.size() >= kBeginning && name.starts_with(wanted.substr(0, kBeginning));
  return same_beginning ? distance - kBonus : distance;
}

// "a, b or c".
std::string JoinChoices(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? " or " : ", ";
    text += words[i];
  }
  return text;
}

// 0.3 as "0.3", 100 as "100".
std::string NumberText(double value) {
  if (value == static_cast<double>(static_cast<std::int64_t>(value))) {
    return std::to_string(static_cast<std::int64_t>(value));
  }
  return nlohmann::json(value).dump();
}

std::string RangeText(const FieldLimits& limits) {
  const bool has_minimum = limits.minimum != -std::numeric_limits<double>::infinity();
  const bool has_maximum = limits.maximum != std::numeric_limits<double>::infinity();
  if (has_minimum && has_maximum && !limits.above_minimum) {
    return " from " + NumberText(limits.minimum) + " to " + NumberText(limits.maximum);
  }
  std::string text;
  if (has_minimum) text += (limits.above_minimum ? " above " : " of at least ") + NumberText(limits.minimum);
  if (has_maximum) text += std::string(has_minimum ? "," : "") + " at most " + NumberText(limits.maximum);
  return text;
}

std::string IntegerText(const FieldLimits& limits) {
  if (limits.numbers.empty()) return "an integer" + RangeText(limits);
  std::vector<std::string> choices;
  choices.reserve(limits.numbers.size());
  for (const int number : limits.numbers) choices.push_back(std::to_string(number));
  return JoinChoices(choices);
}

std::string WordText(const FieldLimits& limits) {
  if (limits.words.empty()) return limits.pattern ? "a regular expression" : "a text that is not empty";
  return JoinChoices({limits.words.begin(), limits.words.end()});
}

template <typename T>
std::string ExpectationOf(FieldRef<T>, const FieldLimits& limits) {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, int> || std::is_same_v<T, std::int64_t>) return IntegerText(limits);
  if constexpr (std::is_same_v<T, double>) return "a number" + RangeText(limits);
  if constexpr (std::is_same_v<T, std::string>) return WordText(limits);
  if constexpr (std::is_same_v<T, std::optional<std::string>>) {
    return (limits.may_be_empty ? std::string("a text") : WordText(limits)) + ", or null";
  }
  if constexpr (std::is_same_v<T, std::optional<double>>) return "a number" + RangeText(limits) + ", or null";
  if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    return limits.pattern ? "a list of regular expressions (ECMAScript)" : "a list of texts that are not empty";
  }
  if constexpr (std::is_same_v<T, LayerBitWidths>) {
    return "a mapping of layer names or regular expressions to " + IntegerText(limits);
  }
  if constexpr (std::is_same_v<T, TimeWeighting>) {
    return WordText(limits) + ", or a list of numbers" + RangeText(limits) + ", one for each time group, not all zero";
  }
}

template <typename T>
constexpr std::string_view TypeNameOf(FieldRef<T>) {
  if constexpr (std::is_same_v<T, bool>) return "bool";
  if constexpr (std::is_same_v<T, int> || std::is_same_v<T, std::int64_t>) return "int";
  if constexpr (std::is_same_v<T, double>) return "float";
  if constexpr (std::is_same_v<T, std::string>) return "string";
  if constexpr (std::is_same_v<T, std::optional<std::string>>) return "string?";
  if constexpr (std::is_same_v<T, std::optional<double>>) return "float?";
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return "list[string]";
  if constexpr (std::is_same_v<T, LayerBitWidths>) return "map[string,int]";
  if constexpr (std::is_same_v<T, TimeWeighting>) return "string|list[float]";
}

nlohmann::ordered_json FieldJson(const ConfigField& field) {
  nlohmann::ordered_json row = {
      {"name", field.name},
      {"type", FieldTypeName(field)},
      {"group", field.group},
      {"doc", field.doc},
      {"expectation", FieldExpectation(field)},
      {"env", FieldEnvironmentNames(field)},
      {"has_effect", field.has_effect},
      {"pattern", field.limits.pattern},
      {"words", field.limits.words},
      {"numbers", field.limits.numbers},
      {"minimum", nullptr},
      {"maximum", nullptr},
      {"above_minimum", field.limits.above_minimum},
  };
  if (field.limits.minimum > -std::numeric_limits<double>::infinity()) row["minimum"] = field.limits.minimum;
  if (field.limits.maximum < std::numeric_limits<double>::infinity()) row["maximum"] = field.limits.maximum;
  for (const std::string_view profile : ConfigProfiles()) {
    const std::string value = FieldValueJson(field, DiffusionQuantConfig::FromProfile(profile));
    row["defaults"][std::string(profile)] = nlohmann::ordered_json::parse(value);
  }
  return row;
}

}  // namespace

const ConfigField* FindConfigField(std::string_view name) {
  for (const ConfigField& field : ConfigFields()) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

const ConfigField* NearestConfigField(std::string_view name) {
  constexpr std::size_t kMaxNameBytes = 200;  // nothing longer resembles a key
  constexpr double kFar = 0.7;                // of the longer name's letters are different
  if (name.size() > kMaxNameBytes) return nullptr;
  const std::string wanted = Normalize(name);
  const ConfigField* nearest = nullptr;
  double least = kFar;
  for (const ConfigField& field : ConfigFields()) {
    const double distance = NameDistance(wanted, field.name);
    if (distance >= least) continue;
    least = distance;
    nearest = &field;
  }
  return nearest;
}

std::string_view FieldTypeName(const ConfigField& field) {
  return std::visit([](auto ref) { return TypeNameOf(ref); }, field.access);
}

std::string FieldExpectation(const ConfigField& field) {
  std::string text = std::visit([&](auto ref) { return ExpectationOf(ref, field.limits); }, field.access);
  if (!field.limits.note.empty()) text += " (" + std::string(field.limits.note) + ")";
  return text;
}

std::vector<std::string> FieldEnvironmentNames(const ConfigField& field) {
  std::string name = "ARROW_QUANT_";
  for (const char c : field.name) {
    name += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  std::vector<std::string> names = {std::move(name)};
  if (!field.old_env.empty()) names.emplace_back(field.old_env);
  return names;
}

std::string ConfigFieldsJson() {
  auto rows = nlohmann::ordered_json::array();
  for (const ConfigField& field : ConfigFields()) rows.push_back(FieldJson(field));
  return rows.dump();
}

void ThrowBadValue(const ConfigField& field, std::string_view value) {
  throw Error(
      ErrorCode::kConfiguration,
      std::string(field.name) + " is " + Shortened(value, kMaxShownBytes) + "; it must be " + FieldExpectation(field),
      {.remedy = "Correct it, or leave it out to take the profile's value."});
}

}  // namespace arrow_quant
