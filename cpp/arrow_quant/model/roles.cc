#include "arrow_quant/model/roles.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "arrow_quant/model/role_table.h"

namespace arrow_quant {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

bool IsNumber(std::string_view text) { return !text.empty() && std::all_of(text.begin(), text.end(), IsDigit); }

// `*` matches any text, `#` one or more digits, every other character itself.
bool Matches(std::string_view pattern, std::string_view text) {
  while (!pattern.empty() && pattern.front() != '*' && pattern.front() != '#') {
    if (text.empty() || text.front() != pattern.front()) return false;
    pattern.remove_prefix(1);
    text.remove_prefix(1);
  }
  if (pattern.empty()) return text.empty();
  const bool digits = pattern.front() == '#';
  pattern.remove_prefix(1);
  for (std::size_t taken = digits ? 1 : 0; taken <= text.size(); ++taken) {
    if (digits && !IsDigit(text[taken - 1])) return false;
    if (Matches(pattern, text.substr(taken))) return true;
  }
  return false;
}

// Takes the part before the first `separator` off `text`.
std::string_view TakePart(std::string_view& text, char separator) {
  const std::size_t end = text.find(separator);
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return part;
}

struct Name {
  std::vector<std::string_view> parts;  // without a last "weight"
  std::size_t first_number = 0;         // index of the first numbered part, or of a middle block; parts.size() without
  bool is_bare = false;                 // the parameter is not called "...weight"
  bool is_bias = false;
};

Name ParseName(std::string_view text) {
  Name name;
  while (!text.empty()) name.parts.push_back(TakePart(text, '.'));
  if (name.parts.empty()) return name;
  const std::string_view last = name.parts.back();
  name.is_bias = last.ends_with("bias");
  name.is_bare = !last.ends_with("weight");
  if (last == "weight" && name.parts.size() > 1) name.parts.pop_back();
  const auto number = std::find_if(name.parts.begin(), name.parts.end(), [](std::string_view part) {
    return IsNumber(part) || part == "mid_block" || part == "middle_block";
  });
  name.first_number = static_cast<std::size_t>(number - name.parts.begin());
  return name;
}

// How many parts of `name` from `begin` the pattern covers; 0 when it does not fit.
std::size_t MatchedParts(std::string_view pattern, const Name& name, std::size_t begin) {
  std::size_t count = 0;
  while (!pattern.empty()) {
    const std::string_view part = TakePart(pattern, '.');
    if (begin + count >= name.parts.size() || !Matches(part, name.parts[begin + count])) return 0;
    ++count;
  }
  return count;
}

bool InScope(RoleScope scope, const Name& name, std::size_t begin, std::size_t count) {
  const bool top = begin < name.first_number;
  const bool last = begin + count == name.parts.size();
  switch (scope) {
    case RoleScope::kAnywhere:
      return true;
    case RoleScope::kTop:
      return top;
    case RoleScope::kTopLast:
      return top && last;
    case RoleScope::kLast:
      return last;
    case RoleScope::kBare:
      return last && name.is_bare;
  }
  return false;
}

bool Fits(const RoleRule& rule, const Name& name) {
  std::string_view patterns = rule.patterns;
  while (!patterns.empty()) {
    const std::string_view pattern = TakePart(patterns, ' ');
    for (std::size_t begin = 0; begin < name.parts.size(); ++begin) {
      const std::size_t count = MatchedParts(pattern, name, begin);
      if (count > 0 && InScope(rule.scope, name, begin, count)) return true;
    }
  }
  return false;
}

}  // namespace

std::string_view LayerRoleName(LayerRole role) {
  constexpr std::array<std::string_view, 16> kNames = {"attention",
                                                       "feed_forward",
                                                       "modulation",
                                                       "convolution",
                                                       "expert",
                                                       "linear",
                                                       "embedding",
                                                       "timestep_embedder",
                                                       "position_embedding",
                                                       "first_layer",
                                                       "final_layer",
                                                       "norm",
                                                       "bias",
                                                       "lm_head",
                                                       "router",
                                                       "other"};
  return kNames[static_cast<std::size_t>(role)];
}

RoleDecision ClassifyTensor(std::string_view text, std::span<const std::int64_t> shape, DType dtype,
                            ModelFamily family) {
  if (!IsFloat(dtype)) return {LayerRole::kOther, "not a floating-point tensor"};
  const Name name = ParseName(text);
  if (name.is_bias) return {LayerRole::kBias, "bias"};
  for (const RoleRule& rule : RoleTable()) {
    if (rule.family != ModelFamily::kUnknown && rule.family != family) continue;
    if (Fits(rule, name)) return {rule.role, rule.keep_reason};
  }
  if (name.is_bare && !shape.empty() && shape.front() == 1) {
    return {LayerRole::kOther, "bare parameter, not the weight of a layer"};
  }
  return {shape.size() >= 3 ? LayerRole::kConvolution : LayerRole::kLinear, ""};
}

}  // namespace arrow_quant
