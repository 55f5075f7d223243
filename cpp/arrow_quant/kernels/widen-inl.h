#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant {
namespace {

template <VecF (*kWiden)(const std::uint8_t*)>
void Widen16Bit(const void* in, std::size_t n, float* out) noexcept {
  const auto* bytes = static_cast<const std::uint8_t*>(in);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, kWiden(bytes + 2 * i));
  if (i == n) return;
  std::uint8_t tail[2 * kLanes] = {};
  CopyBytes(tail, bytes + 2 * i, 2 * (n - i));
  StorePartial(out + i, kWiden(tail), n - i);
}

void F16ToF32(const void* in, std::size_t n, float* out) noexcept { Widen16Bit<LoadF16>(in, n, out); }

void BF16ToF32(const void* in, std::size_t n, float* out) noexcept { Widen16Bit<LoadBF16>(in, n, out); }

}  // namespace
}  // namespace arrow_quant
