#pragma once

// Residual binary grids, a different one in every lane.

#include <cstddef>
#include <cstdint>

#include "arrow_quant/kernels/block-inl.h"
#include "arrow_quant/kernels/kernel_table.h"

namespace arrow_quant {
namespace {

struct BinaryVec {
  VecF middle;
  VecF low;   // middle - scale
  VecF high;  // middle + scale
  VecF residual;
};

inline BinaryVec MakeBinary(const VecF& middle, const VecF& scale, const VecF& residual) {
  return {middle, Sub(middle, scale), Add(middle, scale), residual};
}

struct BinaryValue {
  VecF code;
  VecF value;
};

// Greedy signs give the nearest level when scale >= residual_scale >= 0.
inline BinaryValue NearestBinary(const VecF& target, const BinaryVec& grid) {
  const VecF half = SelectGreaterEqual(target, grid.middle, grid.high, grid.low);
  const VecF first = SelectGreaterEqual(target, grid.middle, Set1(2.0f), Set1(0.0f));
  const VecF second = SelectGreaterEqual(target, half, Set1(1.0f), Set1(0.0f));
  const VecF value = SelectGreaterEqual(target, half, Add(half, grid.residual), Sub(half, grid.residual));
  return {Add(first, second), value};
}

inline VecF BinaryValueOf(const VecF& code, const BinaryVec& grid) {
  const VecF two = Set1(2.0f);
  const VecF half = SelectGreaterEqual(code, two, grid.high, grid.low);
  const VecF rest = SelectGreaterEqual(code, two, Sub(code, two), code);
  return SelectGreaterEqual(rest, Set1(1.0f), Add(half, grid.residual), Sub(half, grid.residual));
}

void Lookup4(const std::uint8_t* codes, std::size_t n, const float* levels, float* out) noexcept {
  const Levels4 table = MakeLevels(levels[0], levels[1], levels[2], levels[3]);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Lookup(table, LoadBytes(codes + i)));
  if (i == n) return;
  std::uint8_t tail[kLanes] = {};
  CopyBytes(tail, codes + i, n - i);
  StorePartial(out + i, Lookup(table, LoadBytes(tail)), n - i);
}

void BinaryMoments(const float* w, const float* g, std::size_t count, std::size_t rows, const float* grid,
                   float* moments) noexcept {
  const VecF plus = Set1(1.0f);
  const VecF minus = Set1(-1.0f);
  for (std::size_t r = 0; r < rows; r += kLanes) {
    const BinaryVec levels = MakeBinary(Load(grid + r), Load(grid + rows + r), Load(grid + 2 * rows + r));
    const VecF zero = Set1(0.0f);
    VecF sum[5] = {zero, zero, zero, zero, zero};
    for (std::size_t k = 0; k < count; ++k) {
      const VecF value = Load(w + k * rows + r);
      const VecF half = SelectGreaterEqual(value, levels.middle, levels.high, levels.low);
      const VecF b1 = Mul(Set1(g[k]), SelectGreaterEqual(value, levels.middle, plus, minus));
      const VecF sign2 = SelectGreaterEqual(value, half, plus, minus);
      const VecF b2 = Mul(Set1(g[k]), sign2);
      sum[0] = Add(sum[0], b1);
      sum[1] = Add(sum[1], b2);
      sum[2] = Add(sum[2], Mul(b1, sign2));
      sum[3] = Add(sum[3], Mul(b1, value));
      sum[4] = Add(sum[4], Mul(b2, value));
    }
    for (std::size_t i = 0; i < 5; ++i) Store(moments + i * rows + r, sum[i]);
  }
}

}  // namespace
}  // namespace arrow_quant
