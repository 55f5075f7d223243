#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/kernels/affine-inl.h"
#include "arrow_quant/kernels/block-inl.h"

namespace arrow_quant {
namespace {

// Reads blocks of 16 codes at any position of a packed stream, never past `end`.
template <int kBits>
struct CodeReader {
  const std::uint8_t* bytes;
  const std::uint8_t* end;

  VecI Read(std::size_t position) const {
    const std::size_t bit = position * kBits;
    const std::uint8_t* p = bytes + bit / 8;
    std::uint8_t tail[kLanes] = {};
    const auto left = static_cast<std::size_t>(end - p);
    if (left < kLanes) {
      CopyBytes(tail, p, left);
      p = tail;
    }
    if constexpr (kBits == 8) {
      return LoadBytes(p);
    } else {
      return Expand(p, static_cast<int>(bit % 8));
    }
  }

 private:
  // Eight codes fit in a 32-bit word, so each half of the lanes shifts its own word.
  static VecI Expand(const std::uint8_t* p, int shift) {
    std::uint64_t word = LoadWord(p) >> shift;
    if constexpr (kBits == 4) word |= (std::uint64_t{p[8]} << 1) << (63 - shift);  // 16 codes are all 64 bits
    return ExpandCodes<kBits>(static_cast<std::uint32_t>(word), static_cast<std::uint32_t>(word >> (8 * kBits)));
  }
};

// Calls value = grid_of(group)(codes) for the blocks of each group.
template <int kBits, typename GridOf>
inline void ForEachGroup(const std::uint8_t* bytes, std::size_t first, std::size_t n, std::size_t group_size,
                         float* out, GridOf grid_of) {
  const CodeReader<kBits> reader{bytes, bytes + ((first + n) * kBits + 7) / 8};
  for (std::size_t group = 0, begin = 0; begin < n; ++group) {
    const std::size_t end = n - begin > group_size ? begin + group_size : n;
    const auto value = grid_of(group);
    for (std::size_t i = begin; i < end; i += kLanes) {
      // What lies beyond the group is overwritten by the next one.
      StoreBlock(out + i, value(reader.Read(first + i)), n - i);
    }
    begin = end;
  }
}

template <int kBits>
void DequantizeRowBits(const std::uint8_t* bytes, std::size_t first, std::size_t n, std::size_t group_size,
                       const float* scales, const float* zero_points, float* out) {
  ForEachGroup<kBits>(bytes, first, n, group_size, out, [&](std::size_t group) {
    const AffineVec grid = ToVec({scales[group], zero_points[group]}, 0);
    return [grid](VecI codes) { return ValueOf(ToFloat(codes), grid); };
  });
}

void DequantizeRow(const std::uint8_t* bytes, std::size_t first, std::size_t n, int bits, std::size_t group_size,
                   const float* scales, const float* zero_points, float* out) noexcept {
  switch (bits) {
    case 2:
      return DequantizeRowBits<2>(bytes, first, n, group_size, scales, zero_points, out);
    case 3:
      return DequantizeRowBits<3>(bytes, first, n, group_size, scales, zero_points, out);
    case 4:
      return DequantizeRowBits<4>(bytes, first, n, group_size, scales, zero_points, out);
    default:
      return DequantizeRowBits<8>(bytes, first, n, group_size, scales, zero_points, out);
  }
}

void DequantizeRowBinary(const std::uint8_t* bytes, std::size_t first, std::size_t n, std::size_t group_size,
                         const float* scales, const float* residual_scales, const float* middles, float* out) noexcept {
  ForEachGroup<2>(bytes, first, n, group_size, out, [&](std::size_t group) {
    const float low = middles[group] - scales[group];
    const float high = middles[group] + scales[group];
    const float residual = residual_scales[group];
    const Levels4 levels = MakeLevels(low - residual, low + residual, high - residual, high + residual);
    return [levels](VecI codes) { return Lookup(levels, codes); };
  });
}

}  // namespace
}  // namespace arrow_quant
