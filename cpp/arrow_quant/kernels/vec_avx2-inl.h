#pragma once

// Sixteen lanes in two (float, int) or four (double) AVX registers. The meaning of each function is that of its twin in
// vec_scalar-inl.h.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "arrow_quant/kernels/bytes-inl.h"
#include "arrow_quant/kernels/pack_x86-inl.h"

namespace arrow_quant {
namespace {

struct VecF {
  __m256 a;
  __m256 b;
};
struct VecI {
  __m256i a;
  __m256i b;
};
struct VecD {
  __m256d a;
  __m256d b;
  __m256d c;
  __m256d d;
};

inline VecF Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline VecF Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void Store(float* p, VecF v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
inline VecF LoadPartial(const float* p, std::size_t n, VecF fill) {
  // A window on this, n lanes before the zeros, selects the first n lanes.
  alignas(64) static const std::int32_t mask[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  const __m256i mask_a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask + 16 - n));
  const __m256i mask_b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask + 24 - n));
  return {_mm256_blendv_ps(fill.a, _mm256_maskload_ps(p, mask_a), _mm256_castsi256_ps(mask_a)),
          _mm256_blendv_ps(fill.b, _mm256_maskload_ps(p + 8, mask_b), _mm256_castsi256_ps(mask_b))};
}
// Masked stores are slow on some processors.
inline void StorePartial(float* p, VecF v, std::size_t n) {
  alignas(32) float lane[kLanes];
  Store(lane, v);
  __builtin_memcpy(p, lane, n * sizeof(float));
}

inline VecF Add(VecF x, VecF y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline VecF Sub(VecF x, VecF y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline VecF Mul(VecF x, VecF y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline VecF Div(VecF x, VecF y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline VecF Min(VecF x, VecF y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline VecF Max(VecF x, VecF y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }

inline VecF Round(VecF v) {
  return {_mm256_round_ps(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline VecI RoundToInt(VecF v) {
  const VecF rounded = Round(v);
  return {_mm256_cvttps_epi32(rounded.a), _mm256_cvttps_epi32(rounded.b)};
}
inline VecF ToFloat(VecI v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }

inline VecF SelectGreaterEqual(VecF x, VecF y, VecF yes, VecF no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ))};
}

inline bool AllZero(VecF v) {
  const __m256 zero = _mm256_setzero_ps();
  const __m256 equal = _mm256_and_ps(_mm256_cmp_ps(v.a, zero, _CMP_EQ_OQ), _mm256_cmp_ps(v.b, zero, _CMP_EQ_OQ));
  return _mm256_movemask_ps(equal) == 0xff;
}

inline __m128 Lower(__m256 v) { return _mm256_castps256_ps128(v); }
inline __m128 Upper(__m256 v) { return _mm256_extractf128_ps(v, 1); }
inline __m128 UpperHalf(__m128 v) { return _mm_movehl_ps(v, v); }
inline __m128 Second(__m128 v) { return _mm_shuffle_ps(v, v, 1); }

inline float ReduceAdd(VecF v) {
  const __m256 eight = _mm256_add_ps(v.a, v.b);
  const __m128 four = _mm_add_ps(Lower(eight), Upper(eight));
  const __m128 two = _mm_add_ps(four, UpperHalf(four));
  return _mm_cvtss_f32(_mm_add_ss(two, Second(two)));
}
inline float ReduceMin(VecF v) {
  const __m256 eight = _mm256_min_ps(v.a, v.b);
  const __m128 four = _mm_min_ps(Lower(eight), Upper(eight));
  const __m128 two = _mm_min_ps(four, UpperHalf(four));
  return _mm_cvtss_f32(_mm_min_ss(two, Second(two)));
}
inline float ReduceMax(VecF v) {
  const __m256 eight = _mm256_max_ps(v.a, v.b);
  const __m128 four = _mm_max_ps(Lower(eight), Upper(eight));
  const __m128 two = _mm_max_ps(four, UpperHalf(four));
  return _mm_cvtss_f32(_mm_max_ss(two, Second(two)));
}

inline VecD ZeroD() { return {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()}; }
inline VecD ToDouble(VecF v) {
  return {_mm256_cvtps_pd(Lower(v.a)), _mm256_cvtps_pd(Upper(v.a)), _mm256_cvtps_pd(Lower(v.b)),
          _mm256_cvtps_pd(Upper(v.b))};
}
inline VecD SubD(VecD x, VecD y) {
  return {_mm256_sub_pd(x.a, y.a), _mm256_sub_pd(x.b, y.b), _mm256_sub_pd(x.c, y.c), _mm256_sub_pd(x.d, y.d)};
}
inline VecD MulD(VecD x, VecD y) {
  return {_mm256_mul_pd(x.a, y.a), _mm256_mul_pd(x.b, y.b), _mm256_mul_pd(x.c, y.c), _mm256_mul_pd(x.d, y.d)};
}
inline VecD AddD(VecD x, VecD y) {
  return {_mm256_add_pd(x.a, y.a), _mm256_add_pd(x.b, y.b), _mm256_add_pd(x.c, y.c), _mm256_add_pd(x.d, y.d)};
}
inline VecD AddProduct(VecD sum, VecD x, VecD y) { return AddD(sum, MulD(x, y)); }
inline void StoreD(double* p, VecD v) {
  _mm256_storeu_pd(p, v.a);
  _mm256_storeu_pd(p + 4, v.b);
  _mm256_storeu_pd(p + 8, v.c);
  _mm256_storeu_pd(p + 12, v.d);
}
inline double ReduceAdd(VecD v) {
  const __m256d four = _mm256_add_pd(_mm256_add_pd(v.a, v.c), _mm256_add_pd(v.b, v.d));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

inline VecI FromBytes(__m128i v) { return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))}; }
inline VecI LoadBytes(const std::uint8_t* p) { return FromBytes(Load128(p)); }
inline void StoreBytes(std::uint8_t* p, VecI v) {
  const __m256i words = _mm256_packus_epi32(v.a, v.b);            // a0-3 b0-3 | a4-7 b4-7
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);  // a0-3 a4-7 | b0-3 b4-7
  Store128(p, _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}

inline VecF LoadF16(const std::uint8_t* p) { return {_mm256_cvtph_ps(Load128(p)), _mm256_cvtph_ps(Load128(p + 16))}; }
inline __m256 BF16(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
inline VecF LoadBF16(const std::uint8_t* p) { return {BF16(Load128(p)), BF16(Load128(p + 16))}; }

template <int kBits>
inline VecI ExpandCodes(std::uint32_t low, std::uint32_t high) {
  const __m256i shift = _mm256_mullo_epi32(_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), _mm256_set1_epi32(kBits));
  const __m256i mask = _mm256_set1_epi32((1 << kBits) - 1);
  const auto expand = [&](std::uint32_t word) {
    return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(static_cast<std::int32_t>(word)), shift), mask);
  };
  return {expand(low), expand(high)};
}

struct Levels4 {
  __m256 value;  // repeated in both halves
};
inline Levels4 MakeLevels(float v0, float v1, float v2, float v3) {
  return {_mm256_set_ps(v3, v2, v1, v0, v3, v2, v1, v0)};
}
inline VecF Lookup(Levels4 levels, VecI codes) {
  return {_mm256_permutevar_ps(levels.value, codes.a), _mm256_permutevar_ps(levels.value, codes.b)};
}

}  // namespace
}  // namespace arrow_quant
