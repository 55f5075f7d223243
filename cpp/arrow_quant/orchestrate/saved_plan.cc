#include "arrow_quant/orchestrate/saved_plan.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/atomic_file.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxPlanBytes = std::size_t{256} << 20;
constexpr std::array kWidths = {2, 3, 4, 8, 16};
// Keys of an entry that tell what a run did or will do; a plan is not asked for them.
constexpr std::array<std::string_view, 23> kFacts = {"dtype",          "role",
                                                     "tail",           "grid",
                                                     "column_scales",  "cosine",
                                                     "sqnr_db",        "constant_groups",
                                                     "num_params",     "source_bytes",
                                                     "stored_bytes",   "output_cosine",
                                                     "output_sqnr_db", "dampening",
                                                     "time_groups",    "activations",
                                                     "spatial",        "time_correction",
                                                     "target",         "reason",
                                                     "component",      "name",
                                                     "shape"};
constexpr std::array<std::string_view, 4> kChoices = {"bits", "group_size", "method", "keep"};

template <typename List, typename Value>
bool Has(const List& list, const Value& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// One entry of a list, with its name for messages.
class Entry {
 public:
  Entry(const Json& json, const std::string& file) : json_(json), file_(file) {
    if (!json.is_object() || !json.contains("name") || !json["name"].is_string()) {
      throw Error(ErrorCode::kConfiguration, "an entry of the plan has no name", {.file = file});
    }
    name_ = json["name"].get<std::string>();
  }

  PlannedTensor Read(bool kept) const {
    RefuseUnknownKeys();
    PlannedTensor tensor;
    tensor.name = name_;
    tensor.component = Get<std::string>("component", "");
    tensor.shape = Get<std::vector<std::int64_t>>("shape", {});
    const auto bits = Get<std::int64_t>("bits", 16);
    if (!kept && !json_.contains("bits")) Refuse("bits", "is missing");
    if (!Has(kWidths, bits)) Refuse("bits", "is " + json_["bits"].dump() + ", not 2, 3, 4, 8 or 16");
    tensor.bits = Get<bool>("keep", false) ? 16 : static_cast<int>(bits);
    tensor.group_size = Get<std::int64_t>("group_size", 0);
    tensor.method = Method();
    return tensor;
  }

  [[noreturn]] void Refuse(const std::string& key, const std::string& what) const {
    throw Error(ErrorCode::kConfiguration, "the plan's " + key + " " + what,
                {.file = file_, .tensor = name_, .remedy = "Correct it, or make the plan again with quantize --plan."});
  }

 private:
  void RefuseUnknownKeys() const {
    for (const auto& [key, value] : json_.items()) {
      if (!Has(kFacts, key) && !Has(kChoices, key)) Refuse("key '" + key + "'", "is not one that a plan has");
    }
  }

  template <typename T>
  T Get(const char* key, T otherwise) const {
    const auto it = json_.find(key);
    if (it == json_.end() || it->is_null()) return otherwise;
    if (std::is_same_v<T, std::int64_t> && !it->is_number_integer()) RefuseType(key, *it);
    try {
      return it->get<T>();
    } catch (const Json::exception&) {
      RefuseType(key, *it);
    }
  }

  [[noreturn]] void RefuseType(const std::string& key, const Json& value) const {
    Refuse(key, "has the value " + value.dump() + " of another type");
  }

  // Of singular moments a run reports "diagonal", which is what ldlq does with them.
  std::string Method() const {
    auto method = Get<std::string>("method", "");
    if (method == "auto" || method == "kept") return "";
    if (method == "diagonal") return "ldlq";
    if (method.empty() || method == "ldlq" || method == "min_max" || method == "fitted") return method;
    Refuse("method", "is '" + method + "', not ldlq, min_max, fitted or auto");
  }

  const Json& json_;
  const std::string& file_;
  std::string name_;
};

}  // namespace

SavedPlan ParsePlan(std::string_view text, const std::string& file) {
  const Json json = Json::parse(text, nullptr, false);
  const auto is_list = [&](const char* key) { return json.is_object() && json.contains(key) && json[key].is_array(); };
  if (!is_list("layers") || !is_list("kept")) {
    throw Error(ErrorCode::kConfiguration, "is no plan: it has no lists 'layers' and 'kept'",
                {.file = file, .remedy = "Make one with arrow-quant quantize MODEL --save-plan FILE."});
  }
  SavedPlan plan{file, {}};
  std::set<std::pair<std::string, std::string>> seen;
  for (const char* list : {"layers", "kept"}) {
    for (const Json& item : json[list]) {
      const Entry entry(item, file);
      PlannedTensor tensor = entry.Read(list == std::string_view("kept"));
      if (!seen.emplace(tensor.component, tensor.name).second) entry.Refuse("name", "occurs twice");
      plan.tensors.push_back(std::move(tensor));
    }
  }
  return plan;
}

SavedPlan LoadPlan(const std::filesystem::path& file) {
  return ParsePlan(ReadSmallFile(file, kMaxPlanBytes), file.string());
}

std::string FormatPlan(const SavedPlan& plan) {
  std::vector<Json> lines;
  for (const PlannedTensor& t : plan.tensors) {
    if (t.bits == 16) {
      lines.push_back({t.component, t.name, t.shape, 16});
    } else {
      lines.push_back({t.component, t.name, t.shape, t.bits, t.group_size, t.method});
    }
  }
  std::sort(lines.begin(), lines.end());
  return Json(lines).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace arrow_quant
