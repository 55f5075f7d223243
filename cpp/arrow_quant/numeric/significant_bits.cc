#include "arrow_quant/numeric/significant_bits.h"

#include <bit>
#include <cmath>
#include <cstdint>

namespace arrow_quant {
namespace {

constexpr int kFloatDigits = 24;
constexpr int kDoubleDigits = 53;

enum class Direction { kNearestEven, kAwayFromZero };

// In double every float is normal, so the leading 1 is always implicit and one rule serves denormals too; the result
// has no more digits than x, so it is a float again unless it reached 2^128.
float Round(float x, int bits, Direction direction) {
  if (bits >= kFloatDigits || !std::isfinite(x)) return x;
  const int dropped = kDoubleDigits - bits;
  const std::uint64_t mask = (std::uint64_t{1} << dropped) - 1;
  std::uint64_t u = std::bit_cast<std::uint64_t>(static_cast<double>(x));
  // The last digit kept; with one digit that is the implicit leading 1.
  const std::uint64_t odd = bits == 1 ? 1u : (u >> dropped) & 1u;
  u += direction == Direction::kAwayFromZero ? mask : (mask >> 1) + odd;
  const double rounded = std::bit_cast<double>(u & ~mask);
  return std::fabs(rounded) >= 0x1p128 ? x : static_cast<float>(rounded);
}

}  // namespace

float RoundToSignificantBits(float x, int bits) { return Round(x, bits, Direction::kNearestEven); }

float RoundUpToSignificantBits(float x, int bits) { return Round(x, bits, Direction::kAwayFromZero); }

}  // namespace arrow_quant
