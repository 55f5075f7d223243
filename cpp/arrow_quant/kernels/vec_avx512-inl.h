#pragma once

// Sixteen lanes in one (float, int) or two (double) AVX-512 registers. The meaning of each function is that of its twin
// in vec_scalar-inl.h.

// GCC 12 takes the deliberately undefined vectors inside its own intrinsics for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstddef>
#include <cstdint>

#include "arrow_quant/kernels/bytes-inl.h"
#include "arrow_quant/kernels/pack_x86-inl.h"

namespace arrow_quant {
namespace {

using VecF = __m512;
struct VecI {
  __m512i v;
};
struct VecD {
  __m512d a;
  __m512d b;
};

inline VecF Set1(float x) { return _mm512_set1_ps(x); }
inline VecF Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, VecF v) { _mm512_storeu_ps(p, v); }
inline __mmask16 FirstLanes(std::size_t n) { return static_cast<__mmask16>((1u << n) - 1); }
inline VecF LoadPartial(const float* p, std::size_t n, VecF fill) {
  return _mm512_mask_loadu_ps(fill, FirstLanes(n), p);
}
inline void StorePartial(float* p, VecF v, std::size_t n) { _mm512_mask_storeu_ps(p, FirstLanes(n), v); }

inline VecF Add(VecF x, VecF y) { return _mm512_add_ps(x, y); }
inline VecF Sub(VecF x, VecF y) { return _mm512_sub_ps(x, y); }
inline VecF Mul(VecF x, VecF y) { return _mm512_mul_ps(x, y); }
inline VecF Div(VecF x, VecF y) { return _mm512_div_ps(x, y); }
inline VecF Min(VecF x, VecF y) { return _mm512_min_ps(x, y); }
inline VecF Max(VecF x, VecF y) { return _mm512_max_ps(x, y); }

inline VecF Round(VecF v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline VecI RoundToInt(VecF v) { return {_mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline VecF ToFloat(VecI v) { return _mm512_cvtepi32_ps(v.v); }

inline VecF SelectGreaterEqual(VecF x, VecF y, VecF yes, VecF no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_GE_OQ), no, yes);
}

inline bool AllZero(VecF v) { return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_EQ_OQ) == 0xffff; }

inline __m256 Lower(__m512 v) { return _mm512_castps512_ps256(v); }
inline __m256 Upper(__m512 v) { return _mm512_extractf32x8_ps(v, 1); }
inline __m128 Lower(__m256 v) { return _mm256_castps256_ps128(v); }
inline __m128 Upper(__m256 v) { return _mm256_extractf128_ps(v, 1); }
inline __m128 UpperHalf(__m128 v) { return _mm_movehl_ps(v, v); }
inline __m128 Second(__m128 v) { return _mm_shuffle_ps(v, v, 1); }

// Not _mm512_reduce_*: their order is the compiler's choice.
inline float ReduceAdd(VecF v) {
  const __m256 eight = _mm256_add_ps(Lower(v), Upper(v));
  const __m128 four = _mm_add_ps(Lower(eight), Upper(eight));
  const __m128 two = _mm_add_ps(four, UpperHalf(four));
  return _mm_cvtss_f32(_mm_add_ss(two, Second(two)));
}
inline float ReduceMin(VecF v) {
  const __m256 eight = _mm256_min_ps(Lower(v), Upper(v));
  const __m128 four = _mm_min_ps(Lower(eight), Upper(eight));
  const __m128 two = _mm_min_ps(four, UpperHalf(four));
  return _mm_cvtss_f32(_mm_min_ss(two, Second(two)));
}
inline float ReduceMax(VecF v) {
  const __m256 eight = _mm256_max_ps(Lower(v), Upper(v));
  const __m128 four = _mm_max_ps(Lower(eight), Upper(eight));
  const __m128 two = _mm_max_ps(four, UpperHalf(four));
  return _mm_cvtss_f32(_mm_max_ss(two, Second(two)));
}

inline VecD ZeroD() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
inline VecD ToDouble(VecF v) { return {_mm512_cvtps_pd(Lower(v)), _mm512_cvtps_pd(Upper(v))}; }
inline VecD SubD(VecD x, VecD y) { return {_mm512_sub_pd(x.a, y.a), _mm512_sub_pd(x.b, y.b)}; }
inline VecD MulD(VecD x, VecD y) { return {_mm512_mul_pd(x.a, y.a), _mm512_mul_pd(x.b, y.b)}; }
inline VecD AddProduct(VecD sum, VecD x, VecD y) {
  return {_mm512_add_pd(sum.a, _mm512_mul_pd(x.a, y.a)), _mm512_add_pd(sum.b, _mm512_mul_pd(x.b, y.b))};
}
inline void StoreD(double* p, VecD v) {
  _mm512_storeu_pd(p, v.a);
  _mm512_storeu_pd(p + 8, v.b);
}
inline double ReduceAdd(VecD v) {
  const __m512d eight = _mm512_add_pd(v.a, v.b);
  const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

inline VecI LoadBytes(const std::uint8_t* p) { return {_mm512_cvtepu8_epi32(Load128(p))}; }
inline void StoreBytes(std::uint8_t* p, VecI v) { Store128(p, _mm512_cvtepi32_epi8(v.v)); }

inline __m256i Load256(const std::uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline VecF LoadF16(const std::uint8_t* p) { return _mm512_cvtph_ps(Load256(p)); }
inline VecF LoadBF16(const std::uint8_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(Load256(p)), 16));
}

template <int kBits>
inline VecI ExpandCodes(std::uint32_t low, std::uint32_t high) {
  const __m512i lane = _mm512_set_epi32(7, 6, 5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i shift = _mm512_mullo_epi32(lane, _mm512_set1_epi32(kBits));
  const __m512i words = _mm512_inserti32x8(_mm512_set1_epi32(static_cast<std::int32_t>(low)),
                                           _mm256_set1_epi32(static_cast<std::int32_t>(high)), 1);
  return {_mm512_and_si512(_mm512_srlv_epi32(words, shift), _mm512_set1_epi32((1 << kBits) - 1))};
}

struct Levels4 {
  __m512 value;  // repeated in every quarter
};
inline Levels4 MakeLevels(float v0, float v1, float v2, float v3) {
  return {_mm512_broadcast_f32x4(_mm_set_ps(v3, v2, v1, v0))};
}
inline VecF Lookup(Levels4 levels, VecI codes) { return _mm512_permutevar_ps(levels.value, codes.v); }

}  // namespace
}  // namespace arrow_quant
