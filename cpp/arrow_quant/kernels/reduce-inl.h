#pragma once

#include <cstddef>

#include "arrow_quant/kernels/kernel_table.h"

namespace arrow_quant {
namespace {

MinMax MinMaxOf(const float* x, std::size_t n) noexcept {
  const VecF first = Set1(x[0]);
  VecF low = first;
  VecF high = first;
  VecF zeros = Set1(0.0f);  // x - x is 0 for finite x, else NaN, which then sticks
  const auto add = [&](VecF v) {
    low = Min(low, v);
    high = Max(high, v);
    zeros = Add(zeros, Sub(v, v));
  };
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) add(Load(x + i));
  if (i < n) add(LoadPartial(x + i, n - i, first));
  if (!AllZero(zeros)) return {0.0f, 0.0f, false};
  // Which zero a minimum returns depends on the order of lanes; adding +0 makes it +0.
  return {ReduceMin(low) + 0.0f, ReduceMax(high) + 0.0f, true};
}

double Dot(const float* a, const float* b, std::size_t n) noexcept {
  VecD sum = ZeroD();
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = AddProduct(sum, ToDouble(Load(a + i)), ToDouble(Load(b + i)));
  if (i < n) {
    const VecF zero = Set1(0.0f);
    sum = AddProduct(sum, ToDouble(LoadPartial(a + i, n - i, zero)), ToDouble(LoadPartial(b + i, n - i, zero)));
  }
  return ReduceAdd(sum);
}

ErrorSums ErrorSumsOf(const float* w, const float* q, std::size_t n) noexcept {
  VecD ww = ZeroD();
  VecD wq = ZeroD();
  VecD qq = ZeroD();
  VecD ee = ZeroD();
  const auto add = [&](VecF wf, VecF qf) {
    const VecD wd = ToDouble(wf);
    const VecD qd = ToDouble(qf);
    const VecD ed = SubD(wd, qd);
    ww = AddProduct(ww, wd, wd);
    wq = AddProduct(wq, wd, qd);
    qq = AddProduct(qq, qd, qd);
    ee = AddProduct(ee, ed, ed);
  };
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) add(Load(w + i), Load(q + i));
  const VecF zero = Set1(0.0f);
  if (i < n) add(LoadPartial(w + i, n - i, zero), LoadPartial(q + i, n - i, zero));
  return {ReduceAdd(ww), ReduceAdd(wq), ReduceAdd(qq), ReduceAdd(ee)};
}

}  // namespace
}  // namespace arrow_quant
