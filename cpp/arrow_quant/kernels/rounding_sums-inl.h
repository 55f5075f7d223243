#pragma once

// Sums down the columns of a panel [count][rows], a lane being a row.

#include <cstddef>

#include "arrow_quant/kernels/block-inl.h"

namespace arrow_quant {
namespace {

void DotColumns(const float* a, const float* b, std::size_t count, std::size_t rows, double* out) noexcept {
  for (std::size_t r = 0; r < rows; r += kLanes) {
    VecD sum = ZeroD();
    for (std::size_t k = 0; k < count; ++k) {
      const VecF other = b == nullptr ? Set1(1.0f) : Load(b + k * rows + r);
      sum = AddProduct(sum, ToDouble(Load(a + k * rows + r)), ToDouble(other));
    }
    StoreD(out + r, sum);
  }
}

void SubtractColumns(const float* x, const float* factor, std::size_t count, std::size_t rows, float* y) noexcept {
  for (std::size_t k = 0; k < count; ++k) {
    for (std::size_t r = 0; r < rows; r += kLanes) {
      const std::size_t at = k * rows + r;
      Store(y + at, Sub(Load(y + at), Mul(Load(factor + r), Load(x + at))));
    }
  }
}

void SubtractOuter(const float* x, const float* factor, std::size_t count, std::size_t rows, float* y) noexcept {
  for (std::size_t k = 0; k < count; ++k) {
    const VecF value = Set1(x[k]);
    for (std::size_t r = 0; r < rows; r += kLanes) {
      const std::size_t at = k * rows + r;
      Store(y + at, Sub(Load(y + at), Mul(Load(factor + r), value)));
    }
  }
}

}  // namespace
}  // namespace arrow_quant
