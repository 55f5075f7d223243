#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace arrow_quant {

// The first bytes of UTF-8 text, at most `max_bytes`, without a character cut in two.
std::string_view Utf8Prefix(std::string_view text, std::size_t max_bytes) noexcept;

// The same with "..." behind it where something was left out: for values in error messages.
std::string Shortened(std::string_view text, std::size_t max_bytes);

}  // namespace arrow_quant
