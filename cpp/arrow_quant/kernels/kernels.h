#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/base/cpu_isa.h"

namespace arrow_quant {

// Range of a block of values. `finite` is false when any value is NaN or infinite; low and high are then unspecified.
struct MinMax {
  float low;
  float high;
  bool finite;
};

// Sums over a block of pairs (w, q): sum w*w, sum w*q, sum q*q, sum (w-q)^2.
struct ErrorSums {
  double ww = 0;
  double wq = 0;
  double qq = 0;
  double ee = 0;
};

// The value grid w = scale * (code - zero_point), code in [0, max_code].
struct AffineParams {
  float scale;
  float zero_point;
};

// Inner loops, one table per instruction set. Every table computes the same bits: products and sums are rounded separately
// (no contraction), reductions run over 16 lanes in a fixed order (lane i takes elements i, i+16, ...; lanes are then
// added pairwise 8, 4, 2, 1), and rounding is to nearest, ties to even. Any n >= 0, any alignment.
struct KernelTable {
  void (*f16_to_f32)(const std::uint16_t* in, std::size_t n, float* out) noexcept;
  void (*bf16_to_f32)(const std::uint16_t* in, std::size_t n, float* out) noexcept;

  // n >= 1.
  MinMax (*min_max)(const float* x, std::size_t n) noexcept;

  // Products and sums in double.
  double (*dot)(const float* a, const float* b, std::size_t n) noexcept;
  ErrorSums (*error_sums)(const float* w, const float* q, std::size_t n) noexcept;

  // code = clamp(round(w / scale + zero_point), 0, max_code); the quotient and the sum are each rounded to float. max_code <= 255.
  void (*quantize)(const float* w, std::size_t n, AffineParams grid, int max_code, std::uint8_t* codes) noexcept;
  // out = scale * (code - zero_point): the difference, then the product, each rounded to float.
  void (*dequantize)(const std::uint8_t* codes, std::size_t n, AffineParams grid, float* out) noexcept;

  // Codes of `bits` in {2, 3, 4, 8} to a little-endian bit stream: code k occupies bits [k*bits, (k+1)*bits), least
  // significant first. `bytes` holds (n*bits + 7) / 8 bytes; unused high bits of the last are 0.
  void (*pack)(const std::uint8_t* codes, std::size_t n, int bits, std::uint8_t* bytes) noexcept;
  void (*unpack)(const std::uint8_t* bytes, std::size_t n, int bits, std::uint8_t* codes) noexcept;

  // Weighted least squares for the grid of one group: from 10 ranges, shrunk evenly from 1.0 to 0.4 of [low, high]
  // about its middle, alternate nearest codes and the closed-form (scale, offset) up to 8 times, or until the codes
  // stay the same; return the best by weighted squared error. `weight` may be null (all ones). low < high, and
  // high - low is a normal float. n >= 2.
  AffineParams (*fit_affine)(const float* w, const float* weight, std::size_t n, int max_code, float low,
                             float high) noexcept;
};

// The table of one instruction set; the CPU must support it.
const KernelTable& KernelsFor(Isa isa);

// The table of ActiveIsa().
const KernelTable& Kernels();

}  // namespace arrow_quant
