#include "arrow_quant/numeric/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

// A minifloat layout; the value of a pattern follows from the definition of the format alone.
struct Layout {
  int exponent_bits;
  int mantissa_bits;
  bool has_inf;  // false: only the all-ones pattern is NaN, as in E4M3FN
};

double ValueByDefinition(std::uint32_t pattern, Layout layout) {
  const int mantissa = static_cast<int>(pattern & ((1u << layout.mantissa_bits) - 1));
  const int exponent = static_cast<int>((pattern >> layout.mantissa_bits) & ((1u << layout.exponent_bits) - 1));
  const double sign = ((pattern >> (layout.mantissa_bits + layout.exponent_bits)) & 1u) != 0 ? -1.0 : 1.0;
  const int bias = (1 << (layout.exponent_bits - 1)) - 1;
  const int top = (1 << layout.exponent_bits) - 1;
  const double fraction = std::ldexp(static_cast<double>(mantissa), -layout.mantissa_bits);
  if (exponent == top && layout.has_inf) return mantissa == 0 ? sign * INFINITY : NAN;
  if (exponent == top && mantissa == (1 << layout.mantissa_bits) - 1) return NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1.0 + fraction, exponent - bias);
}

void ExpectSame(float got, double want, std::uint32_t pattern) {
  if (std::isnan(want)) {
    ASSERT_TRUE(std::isnan(got)) << std::hex << pattern;
    return;
  }
  ASSERT_EQ(static_cast<double>(got), want) << std::hex << pattern;
  ASSERT_EQ(std::signbit(got), std::signbit(want)) << std::hex << pattern;
}

TEST(Convert, EveryF8) {
  for (std::uint32_t p = 0; p < 256; ++p) {
    ExpectSame(F8E4M3ToFloat(static_cast<std::uint8_t>(p)), ValueByDefinition(p, {4, 3, false}), p);
    ExpectSame(F8E5M2ToFloat(static_cast<std::uint8_t>(p)), ValueByDefinition(p, {5, 2, true}), p);
  }
  EXPECT_EQ(F8E4M3ToFloat(0x7e), 448.0f);
  EXPECT_EQ(F8E5M2ToFloat(0x7b), 57344.0f);
}

TEST(Convert, Every16BitPatternAndBack) {
  for (std::uint32_t p = 0; p < 65536; ++p) {
    const auto bits = static_cast<std::uint16_t>(p);
    const double f16 = ValueByDefinition(p, {5, 10, true});
    const double bf16 = ValueByDefinition(p, {8, 7, true});
    ExpectSame(F16ToFloat(bits), f16, p);
    ExpectSame(BF16ToFloat(bits), bf16, p);
    if (!std::isnan(f16)) {
      ASSERT_EQ(FloatToF16(F16ToFloat(bits)), bits);
    }
    if (!std::isnan(bf16)) {
      ASSERT_EQ(FloatToBF16(BF16ToFloat(bits)), bits);
    }
  }
}

// The midpoint of each pair of neighbours goes to the even one, and one float step off it to the nearer one. All are
// exact in float. Patterns of positive finite numbers are ordered as the numbers are; the last one's upper neighbour
// is infinity, in whose place rounding sees the next power of two.
template <typename FromBits, typename ToBits>
void CheckRounding(std::uint32_t largest, double beyond, FromBits from_bits, ToBits to_bits) {
  for (std::uint32_t p = 0; p <= largest; ++p) {
    const double low = from_bits(static_cast<std::uint16_t>(p));
    const double high = p == largest ? beyond : static_cast<double>(from_bits(static_cast<std::uint16_t>(p + 1)));
    const auto middle = static_cast<float>(low + (high - low) / 2);
    const std::uint32_t even = p + (p & 1u);
    ASSERT_EQ(to_bits(middle), even) << p;
    ASSERT_EQ(to_bits(std::nextafter(middle, 0.0f)), p) << p;
    ASSERT_EQ(to_bits(std::nextafter(middle, INFINITY)), p + 1) << p;
    ASSERT_EQ(to_bits(-middle), even | 0x8000u) << p;
  }
}

TEST(Convert, ToF16RoundsToNearestEven) {
  CheckRounding(0x7bff, 65536.0, F16ToFloat, FloatToF16);
  EXPECT_EQ(FloatToF16(1e30f), 0x7c00);
  EXPECT_EQ(FloatToF16(-INFINITY), 0xfc00);
  EXPECT_EQ(FloatToF16(1e-30f), 0);
  EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(NAN))));
  EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(std::bit_cast<float>(0xff800001u)))));
}

TEST(Convert, ToBF16RoundsToNearestEven) {
  CheckRounding(0x7f7f, 0x1p128, BF16ToFloat, FloatToBF16);
  EXPECT_EQ(FloatToBF16(INFINITY), 0x7f80);
  EXPECT_TRUE(std::isnan(BF16ToFloat(FloatToBF16(std::bit_cast<float>(0xff800001u)))));
}

template <typename T>
std::vector<float> Read(DType dtype, const std::vector<T>& values, std::size_t shift) {
  std::vector<std::byte> raw(shift + values.size() * sizeof(T));
  std::memcpy(raw.data() + shift, values.data(), values.size() * sizeof(T));
  std::vector<float> out(values.size());
  ToFloat32(dtype, raw.data() + shift, static_cast<std::int64_t>(values.size()), out.data());
  return out;
}

TEST(Convert, ToFloat32ReadsEveryFloatTypeAtAnyAlignment) {
  for (std::size_t shift : {0u, 1u, 3u}) {
    EXPECT_EQ(Read<std::uint8_t>(DType::kF8E4M3, {0x38, 0xff - 1, 0}, shift), (std::vector<float>{1, -448, 0}));
    EXPECT_EQ(Read<std::uint8_t>(DType::kF8E5M2, {0x3c, 0xbc}, shift), (std::vector<float>{1, -1}));
    EXPECT_EQ(Read<std::uint16_t>(DType::kF16, {0x3c00, 0x0001}, shift), (std::vector<float>{1, 0x1p-24f}));
    EXPECT_EQ(Read<std::uint16_t>(DType::kBF16, {0x3f80, 0xc000}, shift), (std::vector<float>{1, -2}));
    EXPECT_EQ(Read<float>(DType::kF32, {1.5f, 1e-40f}, shift), (std::vector<float>{1.5f, 1e-40f}));
    EXPECT_EQ(Read<double>(DType::kF64, {1.0 + 0x1p-24, 1e300, -1e-300}, shift),
              (std::vector<float>{1.0f, INFINITY, -0.0f}));
  }
  ToFloat32(DType::kF32, nullptr, 0, nullptr);
}

TEST(Convert, ToFloat32RefusesIntegers) {
  const std::byte raw{};
  float out = 0;
  for (DType dtype : {DType::kBool, DType::kI64, DType::kU8, DType::kC64}) {
    EXPECT_THROW(ToFloat32(dtype, &raw, 1, &out), Error);
  }
}

}  // namespace
}  // namespace arrow_quant
