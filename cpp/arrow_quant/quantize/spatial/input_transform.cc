#include "arrow_quant/quantize/spatial/input_transform.h"

#include "arrow_quant/quantize/spatial/block_hadamard.h"

namespace arrow_quant {
namespace {

void MultiplyColumns(const std::vector<float>& scales, MatrixView<float> rows) {
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    for (std::size_t c = 0; c < scales.size(); ++c) rows.Row(r)[c] *= scales[c];
  }
}

void Transpose(MatrixView<float> square) {
  for (std::int64_t r = 0; r < square.rows; ++r) {
    for (std::int64_t c = 0; c < r; ++c) std::swap(square(r, c), square(c, r));
  }
}

}  // namespace

void TransformInputs(const InputTransform& transform, MatrixView<float> rows) {
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    for (std::size_t c = 0; c < transform.shift.size(); ++c) rows.Row(r)[c] -= transform.shift[c];
  }
  MultiplyColumns(transform.scales, rows);
  if (transform.rotation_seed) RotateRows(rows, *transform.rotation_seed);
}

void TransformWeight(const InputTransform& transform, MatrixView<float> weight) {
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    for (std::size_t c = 0; c < transform.scales.size(); ++c) weight.Row(r)[c] /= transform.scales[c];
  }
  if (transform.rotation_seed) RotateRows(weight, *transform.rotation_seed);
}

AlignedVector<float> TransformedMoment(const InputTransform& transform, MatrixView<const float> moment) {
  AlignedVector<float> values(moment.data, moment.data + moment.size());
  const MatrixView<float> view(values.data(), moment.rows, moment.cols);
  // Symmetric, so that what is done to the rows is done to the columns of the transposed.
  for (int side = 0; side < 2; ++side) {
    MultiplyColumns(transform.scales, view);
    if (transform.rotation_seed) RotateRows(view, *transform.rotation_seed);
    Transpose(view);
  }
  return values;
}

}  // namespace arrow_quant
