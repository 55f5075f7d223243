#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/matrix_view.h"

namespace arrow_quant {

// What a layer does to its input x [cols] before it becomes codes: R (e * (x - shift)). The weight is the other side of
// it, W' = (W / e) R^T, and W shift goes to the outputs, so that W' R (e * (x - shift)) + W shift = W x.
struct InputTransform {
  std::vector<float> scales = {};                   // e [cols], positive; empty: ones
  std::vector<float> shift = {};                    // [cols]; empty: zeros
  std::optional<std::uint64_t> rotation_seed = {};  // of R, see RotateRows; none: no rotation

  bool empty() const { return scales.empty() && shift.empty() && !rotation_seed; }
};

// Rows of inputs [n, cols].
void TransformInputs(const InputTransform& transform, MatrixView<float> rows);
// Rows of a weight [outputs, cols].
void TransformWeight(const InputTransform& transform, MatrixView<float> weight);
// E[x x^T] [cols, cols], full and symmetric, of the inputs after scales and rotation; the shift is left out.
AlignedVector<float> TransformedMoment(const InputTransform& transform, MatrixView<const float> moment);

}  // namespace arrow_quant
