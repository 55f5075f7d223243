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

// True for "{1000000", ",1000000" and "\\1000000": libstdc++ lets the number of a count or of a group overflow.
bool HasHugeNumber(std::string_view text) {
  constexpr std::size_t kMaxDigits = 6;
  for (std::size_t i = text.find_first_of("{,\\"); i < text.size(); i = text.find_first_of("{,\\", i + 1)) {
    const std::size_t end = text.find_first_not_of("0123456789", i + 1);
    if (std::min(end, text.size()) - (i + 1) > kMaxDigits) return true;
  }
  return false;
}

std::regex Compile(const std::string& text, std::string_view option) {
  const std::string quoted = std::string(option) + ": '" + Shortened(text, 80) + "'";
  if (text.size() > kMaxPatternBytes) {
    throw Error(ErrorCode::kConfiguration, quoted + " is longer than " + std::to_string(kMaxPatternBytes) + " bytes",
                {.remedy = "Split it into several patterns."});
  }
  if (HasHugeNumber(text)) {
    throw Error(ErrorCode::kConfiguration, quoted + " has a number of more than 6 digits after {, a comma or \\",
                {.remedy = "Use a smaller count, or * for any."});
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
