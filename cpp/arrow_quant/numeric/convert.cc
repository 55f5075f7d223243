#include "arrow_quant/numeric/convert.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

static_assert(std::endian::native == std::endian::little, "elements are read as little-endian");
static_assert(std::numeric_limits<float>::is_iec559 && std::numeric_limits<double>::is_iec559);

constexpr std::uint32_t kFloatInf = 0x7f800000u;
constexpr std::uint32_t kFloatQuietNan = 0x7fc00000u;

template <typename T>
T LoadElement(const std::byte* in, std::int64_t i) {
  T value;
  std::memcpy(&value, in + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T, typename Convert>
void ConvertAll(const std::byte* in, std::int64_t n, float* out, Convert convert) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = convert(LoadElement<T>(in, i));
}

using Table = std::array<float, 256>;

Table MakeTable(float (*convert)(std::uint8_t)) {
  Table table;
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = convert(static_cast<std::uint8_t>(i));
  return table;
}

void ConvertByTable(const std::byte* in, std::int64_t n, float* out, const Table& table) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = table[std::to_integer<std::size_t>(in[i])];
}

// x / 2^shift, rounded to nearest even; shift in [1, 31].
std::uint32_t ShiftRightRounded(std::uint32_t x, int shift) {
  const std::uint32_t quotient = x >> shift;
  const std::uint32_t rest = x & ((1u << shift) - 1);
  const std::uint32_t half = 1u << (shift - 1);
  return quotient + ((rest > half || (rest == half && (quotient & 1u) != 0)) ? 1u : 0u);
}

}  // namespace

float F8E4M3ToFloat(std::uint8_t bits) {
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  float magnitude;
  if (exponent == 15 && mantissa == 7) {
    magnitude = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -9);
  } else {
    magnitude = std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  }
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

float F8E5M2ToFloat(std::uint8_t bits) { return F16ToFloat(static_cast<std::uint16_t>(bits << 8)); }

float F16ToFloat(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 31u;
  const std::uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 31) {
    return std::bit_cast<float>(sign | (mantissa == 0 ? kFloatInf : kFloatQuietNan | (mantissa << 13)));
  }
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

float BF16ToFloat(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

std::uint16_t FloatToF16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > kFloatInf) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x47800000u) {  // 2^16 and more
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // normal halves; a carry out of 65504 gives infinity
    half = ShiftRightRounded(magnitude - (112u << 23), 13);
  } else if (magnitude >= 0x33000000u) {  // denormal halves, from half of the smallest
    const int shift = 126 - static_cast<int>(magnitude >> 23);
    half = ShiftRightRounded((magnitude & 0x7fffffu) | 0x800000u, shift);
  } else {
    half = 0;
  }
  return static_cast<std::uint16_t>(sign | half);
}

std::uint16_t FloatToBF16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > kFloatInf) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

void ToFloat32(DType dtype, const std::byte* in, std::int64_t n, float* out) {
  static const Table e4m3 = MakeTable(F8E4M3ToFloat);
  static const Table e5m2 = MakeTable(F8E5M2ToFloat);
  switch (dtype) {
    case DType::kF8E4M3:
      return ConvertByTable(in, n, out, e4m3);
    case DType::kF8E5M2:
      return ConvertByTable(in, n, out, e5m2);
    case DType::kF16:
      return ConvertAll<std::uint16_t>(in, n, out, F16ToFloat);
    case DType::kBF16:
      return ConvertAll<std::uint16_t>(in, n, out, BF16ToFloat);
    case DType::kF32:
      if (n > 0) std::memcpy(out, in, static_cast<std::size_t>(n) * sizeof(float));
      return;
    case DType::kF64:
      return ConvertAll<double>(in, n, out, [](double value) { return static_cast<float>(value); });
    default:
      throw Error(ErrorCode::kInvalidArgument, std::string(SafetensorsName(dtype)) + " is not a floating-point type",
                  {.remedy = "Pass F8_E4M3, F8_E5M2, F16, BF16, F32 or F64 data."});
  }
}

}  // namespace arrow_quant
