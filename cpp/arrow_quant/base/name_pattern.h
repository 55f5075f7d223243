#pragma once

#include <cstddef>
#include <regex>
#include <string>
#include <string_view>

namespace arrow_quant {

inline constexpr std::size_t kMaxPatternBytes = 1000;
// Names longer than this fit no pattern; safetensors files cannot hold them.
inline constexpr std::size_t kMaxPatternNameBytes = 1024;

// A user's regular expression over tensor names: ECMAScript without back-references, any case, found anywhere in the
// name. Matching takes time and stack in proportion to both lengths, whatever the expression.
class NamePattern {
 public:
  // Throws kConfiguration naming `option` and the pattern when it is too long, has a back-reference, or is not a
  // regular expression.
  NamePattern(std::string text, std::string_view option);

  bool Matches(const std::string& name) const;
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::regex regex_;
};

}  // namespace arrow_quant
