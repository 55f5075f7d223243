// JSON in and out of a configuration.

#include <exception>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/text.h"
#include "arrow_quant/orchestrate/config.h"
#include "arrow_quant/orchestrate/config_fields.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::ordered_json;

// Thrown by the readers below; FromJson turns it into an Error that names the field.
struct BadValue : std::exception {};

// A configuration is an object of sections of values: anything deeper is refused while it is read.
constexpr int kMaxDepth = 8;

[[noreturn]] void ThrowConfiguration(std::string message, std::string remedy) {
  throw Error(ErrorCode::kConfiguration, std::move(message), {.remedy = std::move(remedy)});
}

// Refuses what the parser would accept silently: a key given twice in one object, and bottomless nesting.
class StrictParse {
 public:
  bool operator()(int depth, nlohmann::detail::parse_event_t event, const Json& value) {
    using Event = nlohmann::detail::parse_event_t;
    if (depth > kMaxDepth)
      ThrowConfiguration("the configuration is nested too deeply", "Write it as key: value pairs.");
    if (event == Event::object_start) keys_.emplace_back();
    if (event == Event::object_end) keys_.pop_back();
    if (event == Event::key && !keys_.back().insert(value.get<std::string>()).second) {
      ThrowConfiguration("the key '" + Shortened(value.get<std::string>(), 100) + "' is given twice",
                         "Remove one of the two.");
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> keys_;
};

Json ParseObject(std::string_view text) {
  Json root;
  try {
    // The callback is copied by the parser, so its state lives here.
    StrictParse strict;
    root = Json::parse(text, [&](int depth, auto event, const Json& value) { return strict(depth, event, value); });
  } catch (const nlohmann::json::exception& error) {
    ThrowConfiguration(std::string("the configuration is not valid JSON: ") + error.what(),
                       "Correct it at that place.");
  }
  if (!root.is_object()) ThrowConfiguration("the configuration is not a mapping", "Write it as key: value pairs.");
  return root;
}

// True for "thermodynamic" and "thermodynamic.validation": a name that other names continue.
bool IsSection(std::string_view name) {
  for (const ConfigField& field : ConfigFields()) {
    if (field.name.size() > name.size() && field.name.starts_with(name) && field.name[name.size()] == '.') return true;
  }
  return false;
}

// Nested sections to dotted names.
void Flatten(const std::string& prefix, const Json& object, std::vector<std::pair<std::string, Json>>& values) {
  for (const auto& [key, value] : object.items()) {
    const std::string name = prefix + key;
    if (!IsSection(name)) {
      values.emplace_back(name, value);
    } else if (value.is_object()) {
      Flatten(name + ".", value, values);
    } else {
      ThrowConfiguration(name + " must be a mapping of settings", "Write its settings indented below it.");
    }
  }
}

[[noreturn]] void ThrowUnknownKey(const std::string& name) {
  std::string remedy = "All keys are listed in docs/configuration.md.";
  if (const ConfigField* nearest = NearestConfigField(name)) {
    remedy = "The nearest key is '" + std::string(nearest->name) + "'. " + remedy;
  }
  ThrowConfiguration("unknown key '" + Shortened(name, 100) + "'", std::move(remedy));
}

void Read(const Json& value, bool& out) {
  if (!value.is_boolean()) throw BadValue{};
  out = value.get<bool>();
}

void Read(const Json& value, std::int64_t& out) {
  if (!value.is_number_integer()) throw BadValue{};
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{INT64_MAX}) throw BadValue{};
  out = value.get<std::int64_t>();
}

void Read(const Json& value, int& out) {
  std::int64_t wide = 0;
  Read(value, wide);
  if (!std::in_range<int>(wide)) throw BadValue{};
  out = static_cast<int>(wide);
}

void Read(const Json& value, double& out) {
  if (!value.is_number()) throw BadValue{};
  out = value.get<double>();
}

void Read(const Json& value, std::string& out) {
  if (!value.is_string()) throw BadValue{};
  out = value.get<std::string>();
}

template <typename T>
void Read(const Json& value, std::optional<T>& out) {
  out.reset();
  if (!value.is_null()) Read(value, out.emplace());
}

template <typename T>
void Read(const Json& value, std::vector<T>& out) {
  if (!value.is_array()) throw BadValue{};
  out.clear();
  for (const Json& element : value) Read(element, out.emplace_back());
}

void Read(const Json& value, LayerBitWidths& out) {
  if (!value.is_object()) throw BadValue{};
  out.clear();
  for (const auto& [name, bits] : value.items()) Read(bits, out.emplace_back(name, 0).second);
}

void Read(const Json& value, TimeWeighting& out) {
  if (value.is_string()) {
    out = value.get<std::string>();
  } else {
    Read(value, out.emplace<std::vector<double>>());
  }
}

template <typename T>
Json Write(const T& value) {
  return value;
}

template <typename T>
Json Write(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json Write(const LayerBitWidths& value) {
  Json object = Json::object();
  for (const auto& [name, bits] : value) object[name] = bits;
  return object;
}

Json Write(const TimeWeighting& value) {
  return std::visit([](const auto& alternative) { return Json(alternative); }, value);
}

Json ValueOf(const ConfigField& field, DiffusionQuantConfig& config) {
  return std::visit([&](auto ref) { return Write(ref(config)); }, field.access);
}

void Assign(const ConfigField& field, const Json& value, DiffusionQuantConfig& config) {
  try {
    std::visit([&](auto ref) { Read(value, ref(config)); }, field.access);
  } catch (const BadValue&) {
    ThrowBadValue(field, value.dump());
  }
}

// The profile whose defaults fill the gaps.
std::string ProfileOf(const std::vector<std::pair<std::string, Json>>& values) {
  for (const auto& [name, value] : values) {
    if (name != "deployment_profile") continue;
    DiffusionQuantConfig config;
    Assign(*FindConfigField(name), value, config);
    const std::string& profile = config.deployment_profile;
    if (profile != "edge" && profile != "local" && profile != "cloud") {
      ThrowBadValue(*FindConfigField(name), value.dump());
    }
    return profile;
  }
  return "local";
}

}  // namespace

std::string FieldValueJson(const ConfigField& field, const DiffusionQuantConfig& config) {
  DiffusionQuantConfig copy = config;
  return ValueOf(field, copy).dump(-1, ' ', false, Json::error_handler_t::replace);
}

DiffusionQuantConfig DiffusionQuantConfig::FromJson(std::string_view text, std::string_view profile) {
  std::vector<std::pair<std::string, Json>> values;
  Flatten("", ParseObject(text), values);
  DiffusionQuantConfig config = FromProfile(profile.empty() ? ProfileOf(values) : profile);
  std::set<std::string> seen;
  for (const auto& [name, value] : values) {
    const ConfigField* field = FindConfigField(name);
    if (field == nullptr) ThrowUnknownKey(name);
    if (!seen.insert(name).second)
      ThrowConfiguration("the key '" + Shortened(name, 100) + "' is given twice", "Remove one of the two.");
    Assign(*field, value, config);
  }
  config.Validate();
  return config;
}

std::string DiffusionQuantConfig::ToJson() const {
  Validate();
  DiffusionQuantConfig copy = *this;
  Json root = Json::object();
  for (const ConfigField& field : ConfigFields()) {
    Json* section = &root;
    std::string_view name = field.name;
    for (std::size_t dot = name.find('.'); dot != std::string_view::npos; dot = name.find('.')) {
      section = &(*section)[std::string(name.substr(0, dot))];
      name.remove_prefix(dot + 1);
    }
    (*section)[std::string(name)] = ValueOf(field, copy);
  }
  return root.dump();
}

}  // namespace arrow_quant
