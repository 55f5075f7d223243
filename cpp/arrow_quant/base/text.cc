#include "arrow_quant/base/text.h"

namespace arrow_quant {

std::string_view Utf8Prefix(std::string_view text, std::size_t max_bytes) noexcept {
  if (text.size() <= max_bytes) return text;
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; };
  std::size_t size = max_bytes;
  while (size > 0 && continues(text[size])) --size;
  return text.substr(0, size);
}

std::string Shortened(std::string_view text, std::size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  return std::string(Utf8Prefix(text, max_bytes)) + "...";
}

}  // namespace arrow_quant
