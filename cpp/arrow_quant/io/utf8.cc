#include "arrow_quant/io/utf8.h"

#include <cstddef>

namespace arrow_quant {
namespace {

using Byte = unsigned char;

bool InRange(Byte value, Byte low, Byte high) { return low <= value && value <= high; }

// Length of the sequence that starts with `lead`, and the range of its second byte; 0 for an impossible lead byte.
struct Sequence {
  std::size_t length;
  Byte low;
  Byte high;
};

Sequence SequenceOf(Byte lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (InRange(lead, 0xC2, 0xDF)) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (InRange(lead, 0xE1, 0xEF)) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (InRange(lead, 0xF1, 0xF3)) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

bool IsValidUtf8(std::string_view text) noexcept {
  std::size_t i = 0;
  while (i < text.size()) {
    const Sequence sequence = SequenceOf(static_cast<Byte>(text[i]));
    if (sequence.length == 0 || text.size() - i < sequence.length) return false;
    for (std::size_t k = 1; k < sequence.length; ++k) {
      const Byte low = k == 1 ? sequence.low : Byte{0x80};
      const Byte high = k == 1 ? sequence.high : Byte{0xBF};
      if (!InRange(static_cast<Byte>(text[i + k]), low, high)) return false;
    }
    i += sequence.length;
  }
  return true;
}

}  // namespace arrow_quant
