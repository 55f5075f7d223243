#include "arrow_quant/base/name_pattern.h"

#include <algorithm>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/text.h"

namespace arrow_quant {
namespace {

constexpr std::regex::flag_type Flags() {
  std::regex::flag_type flags = std::regex::ECMAScript | std::regex::icase | std::regex::nosubs;
#if defined(__GLIBCXX__)
  // The default algorithm backtracks: time may double with every character, and the stack grows with the name.
  flags |= std::regex_constants::__polynomial;
#endif
  return flags;
}

// The first sentence of the library's message, without its full stop.
std::string Cause(const std::regex_error& error) {
  std::string text = error.what();
  text.resize(std::min(text.size(), text.find(". ")));
  if (text.ends_with('.')) text.pop_back();
  return text;
}

std::regex Compile(const std::string& text, std::string_view option) {
  const std::string quoted = std::string(option) + ": '" + Shortened(text, 80) + "'";
  if (text.size() > kMaxPatternBytes) {
    throw Error(ErrorCode::kConfiguration, quoted + " is longer than " + std::to_string(kMaxPatternBytes) + " bytes",
                {.remedy = "Split it into several patterns."});
  }
  try {
    return std::regex(text, Flags());
  } catch (const std::regex_error& error) {
    if (error.code() == std::regex_constants::error_complexity) {
      throw Error(ErrorCode::kConfiguration, quoted + " has a back-reference",
                  {.remedy = "Write the alternatives out."});
    }
    throw Error(ErrorCode::kConfiguration, quoted + " is not a regular expression: " + Cause(error),
                {.remedy = "Write it in ECMAScript syntax, for example attn\\.to_out."});
  }
}

}  // namespace

NamePattern::NamePattern(std::string text, std::string_view option)
    : text_(std::move(text)), regex_(Compile(text_, option)) {}

bool NamePattern::Matches(const std::string& name) const {
  return name.size() <= kMaxPatternNameBytes && std::regex_search(name, regex_);
}

}  // namespace arrow_quant
