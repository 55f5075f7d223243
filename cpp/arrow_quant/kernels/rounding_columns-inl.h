#pragma once

// Columns rounded one after the other with feedback of their errors; a lane is a row of the weight matrix.

#include <cstddef>
#include <cstdint>

#include "arrow_quant/kernels/affine-inl.h"
#include "arrow_quant/kernels/kernel_table.h"
#include "arrow_quant/kernels/rounding_binary-inl.h"

namespace arrow_quant {
namespace {

// The grids of one column in 16 rows from `row`.
struct AffineColumn {
  AffineVec grid;

  AffineColumn(const RoundingBlock& block, std::size_t k, std::size_t row)
      : grid{Load(block.scales + static_cast<std::size_t>(block.group[k]) * block.rows + row),
             Load(block.zero_points + static_cast<std::size_t>(block.group[k]) * block.rows + row),
             Set1(static_cast<float>(block.max_code))} {}

  VecF ValueOfCode(const VecI& code) const { return ValueOf(ToFloat(code), grid); }

  VecF Nearest(const VecF& target, std::uint8_t* codes) const {
    const VecI code = RoundToInt(RealCode(target, grid));
    StoreBytes(codes, code);
    return ValueOfCode(code);
  }
};

struct BinaryColumn {
  BinaryVec grid;

  BinaryColumn(const RoundingBlock& block, std::size_t k, std::size_t row)
      : grid(At(block, static_cast<std::size_t>(block.group[k]) * block.rows + row)) {}

  static BinaryVec At(const RoundingBlock& block, std::size_t at) {
    return MakeBinary(Load(block.zero_points + at), Load(block.scales + at), Load(block.residual_scales + at));
  }

  VecF ValueOfCode(const VecI& code) const { return BinaryValueOf(ToFloat(code), grid); }

  VecF Nearest(const VecF& target, std::uint8_t* codes) const {
    const BinaryValue nearest = NearestBinary(target, grid);
    StoreBytes(codes, RoundToInt(nearest.code));
    return nearest.value;
  }
};

// Rounds 16 rows of column k to `sum`'s target and returns the change of the error.
template <typename Column>
inline VecF RoundOne(const RoundingBlock& block, std::size_t k, std::size_t row, const VecF& sum) {
  const std::size_t at = k * block.rows + row;
  const VecF weight = Load(block.weight + at);
  const VecF before = Load(block.error + at);
  const VecF target = Add(Sub(weight, before), Mul(sum, Set1(block.gain[k])));
  const VecF after = Sub(weight, Column(block, k, row).Nearest(target, block.codes + at));
  const VecF delta = Sub(after, before);
  Store(block.error + at, after);
  Store(block.delta + at, delta);
  return delta;
}

// 32 rows, two vectors side by side; the changes are kept close together, whatever the stride of the panel.
template <typename Column>
inline void RoundStrip(const RoundingBlock& block, std::size_t row) {
  alignas(64) float deltas[kRoundingColumns * kRoundingRows];
  for (std::size_t k = 0; k < block.count; ++k) {
    VecF sum0 = Load(block.sum + k * block.rows + row);
    VecF sum1 = Load(block.sum + k * block.rows + row + kLanes);
    const float* coupling = block.coupling + k * block.coupling_stride;
    for (std::size_t j = 0; j < k; ++j) {
      const VecF factor = Set1(coupling[j]);
      sum0 = Add(sum0, Mul(factor, Load(deltas + j * kRoundingRows)));
      sum1 = Add(sum1, Mul(factor, Load(deltas + j * kRoundingRows + kLanes)));
    }
    Store(deltas + k * kRoundingRows, RoundOne<Column>(block, k, row, sum0));
    Store(deltas + k * kRoundingRows + kLanes, RoundOne<Column>(block, k, row + kLanes, sum1));
  }
}

template <typename Column>
void RoundColumns(const RoundingBlock& block) noexcept {
  for (std::size_t row = 0; row < block.rows; row += kRoundingRows) RoundStrip<Column>(block, row);
}

template <typename Column>
void ColumnErrors(const RoundingBlock& block) noexcept {
  for (std::size_t k = 0; k < block.count; ++k) {
    for (std::size_t row = 0; row < block.rows; row += kLanes) {
      const std::size_t at = k * block.rows + row;
      const VecF value = Column(block, k, row).ValueOfCode(LoadBytes(block.codes + at));
      Store(block.error + at, Sub(Load(block.weight + at), value));
    }
  }
}

}  // namespace
}  // namespace arrow_quant
