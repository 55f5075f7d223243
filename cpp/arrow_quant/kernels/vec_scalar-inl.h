#pragma once

// Sixteen lanes in plain arrays: the reference for the instruction sets, and the build for other processors.

#include <cstddef>
#include <cstdint>

#include "arrow_quant/kernels/bytes-inl.h"
#include "arrow_quant/numeric/convert.h"
#include "arrow_quant/numeric/pack.h"

namespace arrow_quant {
namespace {

struct VecF {
  float lane[kLanes];
};
struct VecI {
  std::int32_t lane[kLanes];
};
struct VecD {
  double lane[kLanes];
};

// A vector whose lane i is f(i).
template <typename Vec, typename F>
inline Vec Generate(F f) {
  Vec v;
  for (std::size_t i = 0; i < kLanes; ++i) v.lane[i] = f(i);
  return v;
}

// Combines lanes 8, 4, 2, 1 apart.
template <typename T, typename F>
inline T Reduce(T (&lane)[kLanes], F combine) {
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) lane[i] = combine(lane[i], lane[i + half]);
  }
  return lane[0];
}

inline VecF Set1(float x) {
  return Generate<VecF>([=](std::size_t) { return x; });
}
inline VecF Load(const float* p) {
  return Generate<VecF>([=](std::size_t i) { return p[i]; });
}
// The first n < 16 lanes from memory, the others from `fill`.
inline VecF LoadPartial(const float* p, std::size_t n, const VecF& fill) {
  return Generate<VecF>([&](std::size_t i) { return i < n ? p[i] : fill.lane[i]; });
}
inline void Store(float* p, const VecF& v) {
  for (std::size_t i = 0; i < kLanes; ++i) p[i] = v.lane[i];
}
// The first n < 16 lanes.
inline void StorePartial(float* p, const VecF& v, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) p[i] = v.lane[i];
}

inline VecF Add(const VecF& a, const VecF& b) {
  return Generate<VecF>([&](std::size_t i) { return a.lane[i] + b.lane[i]; });
}
inline VecF Sub(const VecF& a, const VecF& b) {
  return Generate<VecF>([&](std::size_t i) { return a.lane[i] - b.lane[i]; });
}
inline VecF Mul(const VecF& a, const VecF& b) {
  return Generate<VecF>([&](std::size_t i) { return a.lane[i] * b.lane[i]; });
}
inline VecF Div(const VecF& a, const VecF& b) {
  return Generate<VecF>([&](std::size_t i) { return a.lane[i] / b.lane[i]; });
}
// As the x86 instructions: the second argument when either is NaN or both are zero.
inline VecF Min(const VecF& a, const VecF& b) {
  return Generate<VecF>([&](std::size_t i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline VecF Max(const VecF& a, const VecF& b) {
  return Generate<VecF>([&](std::size_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}

// Nearest integer, ties to even, of lanes in [0, 2^22]: adding 1.5 * 2^23 leaves no room for fraction bits.
inline VecF Round(const VecF& v) {
  return Generate<VecF>([&](std::size_t i) { return (v.lane[i] + 12582912.0f) - 12582912.0f; });
}
inline VecI RoundToInt(const VecF& v) {
  const VecF rounded = Round(v);
  return Generate<VecI>([&](std::size_t i) { return static_cast<std::int32_t>(rounded.lane[i]); });
}
inline VecF ToFloat(const VecI& v) {
  return Generate<VecF>([&](std::size_t i) { return static_cast<float>(v.lane[i]); });
}

// Lane by lane x >= y ? yes : no; a NaN takes `no`.
inline VecF SelectGreaterEqual(const VecF& x, const VecF& y, const VecF& yes, const VecF& no) {
  return Generate<VecF>([&](std::size_t i) { return x.lane[i] >= y.lane[i] ? yes.lane[i] : no.lane[i]; });
}

inline bool AllZero(const VecF& v) {
  bool zero = true;
  for (std::size_t i = 0; i < kLanes; ++i) zero = zero && v.lane[i] == 0.0f;
  return zero;
}
inline float ReduceAdd(VecF v) {
  return Reduce(v.lane, [](float a, float b) { return a + b; });
}
inline float ReduceMin(VecF v) {
  return Reduce(v.lane, [](float a, float b) { return a < b ? a : b; });
}
inline float ReduceMax(VecF v) {
  return Reduce(v.lane, [](float a, float b) { return a > b ? a : b; });
}

inline VecD ZeroD() {
  return Generate<VecD>([](std::size_t) { return 0.0; });
}
inline VecD ToDouble(const VecF& v) {
  return Generate<VecD>([&](std::size_t i) { return static_cast<double>(v.lane[i]); });
}
inline VecD SubD(const VecD& a, const VecD& b) {
  return Generate<VecD>([&](std::size_t i) { return a.lane[i] - b.lane[i]; });
}
inline VecD MulD(const VecD& a, const VecD& b) {
  return Generate<VecD>([&](std::size_t i) { return a.lane[i] * b.lane[i]; });
}
inline VecD AddProduct(const VecD& sum, const VecD& a, const VecD& b) {
  return Generate<VecD>([&](std::size_t i) { return sum.lane[i] + a.lane[i] * b.lane[i]; });
}
inline void StoreD(double* p, const VecD& v) {
  for (std::size_t i = 0; i < kLanes; ++i) p[i] = v.lane[i];
}
inline double ReduceAdd(VecD v) {
  return Reduce(v.lane, [](double a, double b) { return a + b; });
}

inline VecI LoadBytes(const std::uint8_t* p) {
  return Generate<VecI>([=](std::size_t i) { return std::int32_t{p[i]}; });
}
// Lanes in [0, 255].
inline void StoreBytes(std::uint8_t* p, const VecI& v) {
  for (std::size_t i = 0; i < kLanes; ++i) p[i] = static_cast<std::uint8_t>(v.lane[i]);
}

inline std::uint16_t Load16(const std::uint8_t* p) {
  std::uint16_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return word;
}
inline VecF LoadF16(const std::uint8_t* p) {
  return Generate<VecF>([=](std::size_t i) { return F16ToFloat(Load16(p + 2 * i)); });
}
inline VecF LoadBF16(const std::uint8_t* p) {
  return Generate<VecF>([=](std::size_t i) { return BF16ToFloat(Load16(p + 2 * i)); });
}

// Codes 0..7 from `low`, 8..15 from `high`, least significant first.
template <int kBits>
inline VecI ExpandCodes(std::uint32_t low, std::uint32_t high) {
  return Generate<VecI>([=](std::size_t i) {
    const std::uint32_t word = i < 8 ? low : high;
    return static_cast<std::int32_t>((word >> (kBits * (i % 8))) & ((1u << kBits) - 1));
  });
}

// The values of the codes 0..3.
struct Levels4 {
  float value[4];
};
inline Levels4 MakeLevels(float v0, float v1, float v2, float v3) { return {{v0, v1, v2, v3}}; }
inline VecF Lookup(const Levels4& levels, const VecI& codes) {
  return Generate<VecF>([&](std::size_t i) { return levels.value[codes.lane[i]]; });
}

template <int kBits>
inline void PackBlock(const std::uint8_t* codes, std::uint8_t* bytes) {
  PackCodes(codes, kLanes, kBits, bytes);
}
template <int kBits>
inline void UnpackBlock(const std::uint8_t* bytes, std::uint8_t* codes) {
  UnpackCodes(bytes, kLanes, kBits, codes);
}

}  // namespace
}  // namespace arrow_quant
