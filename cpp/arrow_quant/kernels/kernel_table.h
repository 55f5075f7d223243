#pragma once

// Plain data and function pointers only: files compiled for one instruction set include this, and an inline function
// that they instantiate could be the copy which the linker keeps for everyone.

#include <cstddef>
#include <cstdint>

namespace arrow_quant {

// Range of a block of values. `finite` is false when any value is NaN or infinite; low and high are then 0. A zero
// bound is +0.
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

// Most columns, and the multiple of rows, of a RoundingBlock.
inline constexpr std::size_t kRoundingColumns = 64;
inline constexpr std::size_t kRoundingRows = 32;

// Columns of a panel of weights that are rounded one after the other, all rows at once. Matrices are [count][rows], so
// that the rows of one column are neighbours. Grids are [groups][rows]; the grid of column k is their row group[k].
struct RoundingBlock {
  std::size_t count;  // columns, at most kRoundingColumns
  std::size_t rows;   // a multiple of kRoundingRows
  int max_code;
  const float* weight;
  const float* sum;       // feedback of the columns outside of the block
  const float* gain;      // [count]
  const float* coupling;  // row k, of which the first k values count
  std::size_t coupling_stride;
  const std::int32_t* group;  // [count]
  const float* scales;
  const float* zero_points;
  const float* residual_scales;  // of a residual binary grid
  float* error;                  // weight - value: before and after
  float* delta;                  // written: how much the error has changed
  std::uint8_t* codes;           // written
};

// Inner loops, one table per instruction set. Every table computes the same bits: products and sums are rounded
// separately (no contraction), reductions run over 16 lanes in a fixed order (lane i takes elements i, i+16, ...; lanes
// are then added pairwise 8, 4, 2, 1), and rounding is to nearest, ties to even. Only the payload of a NaN result may
// differ. Any n >= 0, any alignment that the element type allows, no overlap of inputs and outputs.
struct KernelTable {
  // n 16-bit elements; `in` may have any address, as tensors in a mapped file do.
  void (*f16_to_f32)(const void* in, std::size_t n, float* out) noexcept;
  void (*bf16_to_f32)(const void* in, std::size_t n, float* out) noexcept;

  // n >= 1.
  MinMax (*min_max)(const float* x, std::size_t n) noexcept;

  // Products and sums in double.
  double (*dot)(const float* a, const float* b, std::size_t n) noexcept;
  ErrorSums (*error_sums)(const float* w, const float* q, std::size_t n) noexcept;

  // code = clamp(round(w / scale + zero_point), 0, max_code); the quotient and the sum are each rounded to float.
  // max_code <= 255. A NaN gives code 0, infinities the ends.
  void (*quantize)(const float* w, std::size_t n, AffineParams grid, int max_code, std::uint8_t* codes) noexcept;
  // out = scale * (code - zero_point): the difference, then the product, each rounded to float.
  void (*dequantize)(const std::uint8_t* codes, std::size_t n, AffineParams grid, float* out) noexcept;

  // Codes of `bits` in {2, 3, 4, 8}, each below 2^bits, to a little-endian bit stream: code k occupies bits
  // [k*bits, (k+1)*bits), least significant first. `bytes` holds (n*bits + 7) / 8 bytes; unused high bits of the last
  // are 0. Eight codes fill `bits` whole bytes, so blocks of 8 codes can be packed independently.
  void (*pack)(const std::uint8_t* codes, std::size_t n, int bits, std::uint8_t* bytes) noexcept;
  void (*unpack)(const std::uint8_t* bytes, std::size_t n, int bits, std::uint8_t* codes) noexcept;

  // n consecutive packed codes, from number `first` of the stream `bytes`, to floats. Each group_size of them from the
  // first share a grid, the last group may be shorter: group g has scales[g] and zero_points[g]. The same bits as
  // unpack and dequantize. Reads no byte that holds none of the n codes.
  void (*dequantize_row)(const std::uint8_t* bytes, std::size_t first, std::size_t n, int bits, std::size_t group_size,
                         const float* scales, const float* zero_points, float* out) noexcept;
  // The same for 2-bit codes of a residual binary grid:
  // (middle +- scale) +- residual_scale, signs from bit 1 and bit 0 (1 is plus), each sum rounded to float.
  void (*dequantize_row_binary)(const std::uint8_t* bytes, std::size_t first, std::size_t n, std::size_t group_size,
                                const float* scales, const float* residual_scales, const float* middles,
                                float* out) noexcept;

  // Weighted least squares for the grid of one group: from 10 ranges, shrunk evenly from 1.0 to 0.4 of [low, high]
  // about its middle, alternate nearest codes and the closed-form (scale, offset) up to 8 times, or until the grid
  // stays the same; return the best by weighted squared error. Never worse, as quantize and dequantize compute it, than
  // the min-max grid {(high - low) / max_code, -low / scale}. `weight` may be null (all ones); weights are finite and
  // not negative, only their ratios matter; all zero counts as all ones. w is finite and within [low, high], low <
  // high, and high - low is a normal float. n >= 2.
  AffineParams (*fit_affine)(const float* w, const float* weight, std::size_t n, int max_code, float low,
                             float high) noexcept;

  // For k = 0, 1, ...: target = (weight_k - error_k) + gain_k * (sum_k + coupling_k0 delta_0 + ... + coupling_k,k-1
  // delta_k-1), the code of the nearest value of the grid, and the new error. With error 0 and gain 1 that is LDLQ;
  // with a second moment H as coupling, E H as sum and 1 / H_kk as gain it is coordinate descent. The binary one takes
  // the grid of dequantize_row_binary with scale >= residual_scale >= 0, middles in zero_points.
  void (*round_columns)(const RoundingBlock& block) noexcept;
  void (*round_columns_binary)(const RoundingBlock& block) noexcept;
  // error = weight - value of the given codes; reads and writes nothing else of the block. Any count.
  void (*column_errors)(const RoundingBlock& block) noexcept;
  void (*column_errors_binary)(const RoundingBlock& block) noexcept;

  // Over [count][rows], rows a multiple of 16: out[r] = sum over k of a[k][r] * b[k][r], products and sums in double.
  // `b` may be null (all ones).
  void (*dot_columns)(const float* a, const float* b, std::size_t count, std::size_t rows, double* out) noexcept;
  // y[k][r] -= factor[r] * x[k][r].
  void (*subtract_columns)(const float* x, const float* factor, std::size_t count, std::size_t rows, float* y) noexcept;
  // y[k][r] -= factor[r] * x[k].
  void (*subtract_outer)(const float* x, const float* factor, std::size_t count, std::size_t rows, float* y) noexcept;
  // out[i] = levels[codes[i]] for codes 0..3.
  void (*lookup4)(const std::uint8_t* codes, std::size_t n, const float* levels, float* out) noexcept;

  // With weight g[k] of column k and the signs b1, b2 that the nearest value of each row's residual binary grid
  // (middle, scale, residual_scale in grid[0..3) [rows]) gives w[k][r]: moments[0..5) [rows] = sum g b1, g b2, g b1 b2,
  // g b1 w, g b2 w. rows a multiple of 16.
  void (*binary_moments)(const float* w, const float* g, std::size_t count, std::size_t rows, const float* grid,
                         float* moments) noexcept;
};

extern const KernelTable kScalarKernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;

}  // namespace arrow_quant
