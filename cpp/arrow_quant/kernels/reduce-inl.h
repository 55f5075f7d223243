#pragma once

#include <cstddef>

#include "arrow_quant/kernels/block-inl.h"
#include "arrow_quant/kernels/kernel_table.h"

namespace arrow_quant {
namespace {

MinMax MinMaxOf(const float* x, std::size_t n) noexcept {
  const VecF first = Set1(x[0]);
  VecF low = first;
  VecF high = first;
  VecF zeros = Set1(0.0f);  // x - x is 0 for finite x, else NaN, which then sticks
  for (std::size_t i = 0; i < n; i += kLanes) {
    const VecF v = LoadBlock(x + i, n - i, first);
    low = Min(low, v);
    high = Max(high, v);
    zeros = Add(zeros, Sub(v, v));
  }
  if (!AllZero(zeros)) return {0.0f, 0.0f, false};
  // Which zero a minimum returns depends on the order of lanes; adding +0 makes it +0.
  return {ReduceMin(low) + 0.0f, ReduceMax(high) + 0.0f, true};
}

double Dot(const float* a, const float* b, std::size_t n) noexcept {
  const VecF zero = Set1(0.0f);
  VecD sum = ZeroD();
  for (std::size_t i = 0; i < n; i += kLanes) {
    sum = AddProduct(sum, ToDouble(LoadBlock(a + i, n - i, zero)), ToDouble(LoadBlock(b + i, n - i, zero)));
  }
  return ReduceAdd(sum);
}

ErrorSums ErrorSumsOf(const float* w, const float* q, std::size_t n) noexcept {
  const VecF zero = Set1(0.0f);
  VecD ww = ZeroD();
  VecD wq = ZeroD();
  VecD qq = ZeroD();
  VecD ee = ZeroD();
  for (std::size_t i = 0; i < n; i += kLanes) {
    const VecD wd = ToDouble(LoadBlock(w + i, n - i, zero));
    const VecD qd = ToDouble(LoadBlock(q + i, n - i, zero));
    const VecD ed = SubD(wd, qd);
    ww = AddProduct(ww, wd, wd);
    wq = AddProduct(wq, wd, qd);
    qq = AddProduct(qq, qd, qd);
    ee = AddProduct(ee, ed, ed);
  }
  return {ReduceAdd(ww), ReduceAdd(wq), ReduceAdd(qq), ReduceAdd(ee)};
}

}  // namespace
}  // namespace arrow_quant
