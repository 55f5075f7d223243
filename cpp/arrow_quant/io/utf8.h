#pragma once

#include <string_view>

namespace arrow_quant {

// True when `text` is well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF (Unicode, table 3-7).
bool IsValidUtf8(std::string_view text) noexcept;

}  // namespace arrow_quant
