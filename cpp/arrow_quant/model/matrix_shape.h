#pragma once

#include <cstdint>
#include <span>

namespace arrow_quant {

// How a tensor is seen as a matrix whose rows are output channels: `quant_axis` is moved to the front, the first
// `row_rank` axes then form the rows and the others the columns, in C order.
struct MatrixShape {
  int quant_axis = 0;  // 1 for transposed convolutions [in, out / groups, k...]
  int row_rank = 1;    // 2 for expert weights [experts, out, in]: each expert's rows are rows of their own
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  bool operator==(const MatrixShape&) const = default;
};

// The matrix view of a tensor of `shape`. A scalar is 1 x 1 and a vector one row. `transposed`: a transposed
// convolution, needs rank 2 or more. `expert`: stacked expert weights, needs rank 3 or more. Throws kInvalidArgument
// where the rank is too small, or where both are asked for.
MatrixShape MatrixViewOf(std::span<const std::int64_t> shape, bool transposed = false, bool expert = false);

}  // namespace arrow_quant
