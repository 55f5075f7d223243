#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"

namespace arrow_quant {

// How a code stands for a value.
enum class GridKind {
  kAffine,          // scale * (code - zero_point)
  kResidualBinary,  // 2 bits: zero_point + scale * (2 * (code >> 1) - 1) + residual_scale * (2 * (code & 1) - 1)
};

// "affine", "residual_binary".
std::string_view GridKindName(GridKind kind);

// A weight matrix [rows, cols], rows are output channels, quantized in groups of `group_size` consecutive columns of
// one row. The last group of a row is shorter when group_size does not divide cols.
struct QuantizedMatrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  int bits = 0;                 // 2, 3, 4 or 8
  std::int64_t group_size = 0;  // in [1, cols]
  GridKind grid = GridKind::kAffine;
  AlignedVector<std::uint8_t> codes;   // packed LSB-first over the rows*cols flattened codes
  std::vector<float> scales;           // [rows, groups()]
  std::vector<float> zero_points;      // [rows, groups()]; the middle m for a residual binary grid
  std::vector<float> residual_scales;  // [rows, groups()] for a residual binary grid, else empty
  // What the codes stand for are the values W' of a transformed input: W = (W' R) diag(column_scales).
  std::optional<std::uint64_t> rotation_seed;  // of R, see RotateRows; none: no rotation
  std::vector<float> column_scales;            // [cols]; empty: ones

  std::int64_t groups() const { return cols == 0 ? 0 : (cols + group_size - 1) / group_size; }
};

// Bytes of n packed codes.
inline std::int64_t PackedBytes(std::int64_t n, int bits) { return (n * bits + 7) / 8; }

}  // namespace arrow_quant
