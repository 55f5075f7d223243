#pragma once

// Packing of 16 codes with 128-bit integer instructions: pairs of fields are merged until a field is a whole number of
// bytes, and split again the same way.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "arrow_quant/kernels/bytes-inl.h"

namespace arrow_quant {
namespace {

inline __m128i Load128(const std::uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline void Store128(std::uint8_t* p, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }

// lo + hi * 2^kBits for the pairs of bytes, in 16-bit fields.
template <int kBits>
inline __m128i MergeBytes(__m128i codes) {
  return _mm_maddubs_epi16(codes, _mm_set1_epi16((1 << (8 + kBits)) | 1));
}
// The same for pairs of 16-bit fields, in 32-bit fields.
template <int kBits>
inline __m128i MergeWords(__m128i fields) {
  return _mm_madd_epi16(fields, _mm_set1_epi32((1 << (16 + kBits)) | 1));
}

template <int kBits>
inline void PackBlock(const std::uint8_t* codes, std::uint8_t* bytes) {
  static_assert(kBits == 2 || kBits == 3 || kBits == 4);
  const __m128i pairs = MergeBytes<kBits>(Load128(codes));
  std::uint64_t word;
  if constexpr (kBits == 4) {
    word = static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_packus_epi16(pairs, pairs)));
  } else if constexpr (kBits == 2) {
    const __m128i pick = _mm_set_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 12, 8, 4, 0);
    word = static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_shuffle_epi8(MergeWords<4>(pairs), pick)));
  } else {
    const __m128i quads = MergeWords<6>(pairs);  // 12 bits in each 32
    const __m128i octets = _mm_or_si128(quads, _mm_srli_epi64(quads, 20));
    const __m128i pick = _mm_set_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 10, 9, 8, 2, 1, 0);
    word = static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_shuffle_epi8(octets, pick)));
  }
  __builtin_memcpy(bytes, &word, 2 * kBits);
}

// Low and high part of each field, the high one moved up to the upper half of the field's new width.
template <int kShift>
inline __m128i Split64(__m128i v, std::int64_t low, std::int64_t high) {
  return _mm_or_si128(_mm_and_si128(v, _mm_set1_epi64x(low)),
                      _mm_slli_epi64(_mm_and_si128(v, _mm_set1_epi64x(high)), kShift));
}

// 2 * kBits bytes. Whole loads: a word assembled in memory would have to wait for its parts.
template <int kBits>
inline std::uint64_t LoadPacked(const std::uint8_t* bytes) {
  if constexpr (kBits == 4) return LoadWord(bytes);
  std::uint32_t low;
  __builtin_memcpy(&low, bytes, sizeof(low));
  if constexpr (kBits == 2) return low;
  std::uint16_t high;
  __builtin_memcpy(&high, bytes + 4, sizeof(high));
  return low | (std::uint64_t{high} << 32);
}

template <int kBits>
inline void UnpackBlock(const std::uint8_t* bytes, std::uint8_t* codes) {
  static_assert(kBits == 2 || kBits == 3 || kBits == 4);
  const std::uint64_t word = LoadPacked<kBits>(bytes);
  const __m128i v = _mm_cvtsi64_si128(static_cast<std::int64_t>(word));
  if constexpr (kBits == 3) {
    const __m128i spread = _mm_set_epi8(-1, -1, -1, -1, -1, 5, 4, 3, -1, -1, -1, -1, -1, 2, 1, 0);
    const __m128i quads = Split64<20>(_mm_shuffle_epi8(v, spread), 0xfff, 0xfff000);
    const __m128i pairs = Split64<10>(quads, 0x0000003f0000003f, 0x00000fc000000fc0);
    Store128(codes, Split64<5>(pairs, 0x0007000700070007, 0x0038003800380038));
  } else {
    const __m128i low4 = _mm_set1_epi8(0x0f);
    const __m128i nibbles = _mm_unpacklo_epi8(_mm_and_si128(v, low4), _mm_and_si128(_mm_srli_epi16(v, 4), low4));
    if constexpr (kBits == 4) {
      Store128(codes, nibbles);
    } else {
      const __m128i low2 = _mm_set1_epi8(0x03);
      Store128(codes, _mm_unpacklo_epi8(_mm_and_si128(nibbles, low2), _mm_and_si128(_mm_srli_epi16(nibbles, 2), low2)));
    }
  }
}

}  // namespace
}  // namespace arrow_quant
