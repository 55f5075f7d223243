#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/kernels/kernel_table.h"

namespace arrow_quant {
namespace {

// An affine grid and its highest code in every lane.
struct AffineVec {
  VecF scale;
  VecF zero_point;
  VecF top;
};

inline AffineVec ToVec(AffineParams grid, int max_code) {
  return {Set1(grid.scale), Set1(grid.zero_point), Set1(static_cast<float>(max_code))};
}

// The code before rounding to an integer. Max returns its second argument for a NaN, so NaN becomes 0.
inline VecF RealCode(VecF w, const AffineVec& grid) {
  return Min(Max(Add(Div(w, grid.scale), grid.zero_point), Set1(0.0f)), grid.top);
}

inline VecF ValueOf(VecF code, const AffineVec& grid) { return Mul(grid.scale, Sub(code, grid.zero_point)); }

void Quantize(const float* w, std::size_t n, AffineParams grid, int max_code, std::uint8_t* codes) noexcept {
  const AffineVec g = ToVec(grid, max_code);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) StoreBytes(codes + i, RoundToInt(RealCode(Load(w + i), g)));
  if (i == n) return;
  std::uint8_t tail[kLanes];
  StoreBytes(tail, RoundToInt(RealCode(LoadPartial(w + i, n - i, Set1(0.0f)), g)));
  CopyBytes(codes + i, tail, n - i);
}

void Dequantize(const std::uint8_t* codes, std::size_t n, AffineParams grid, float* out) noexcept {
  const AffineVec g = ToVec(grid, 0);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, ValueOf(ToFloat(LoadBytes(codes + i)), g));
  if (i == n) return;
  std::uint8_t tail[kLanes] = {};
  CopyBytes(tail, codes + i, n - i);
  StorePartial(out + i, ValueOf(ToFloat(LoadBytes(tail)), g), n - i);
}

}  // namespace
}  // namespace arrow_quant
