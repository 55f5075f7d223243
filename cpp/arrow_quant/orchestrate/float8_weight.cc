#include "arrow_quant/orchestrate/float8_weight.h"

#include <cstring>

#include "arrow_quant/base/error.h"
#include "arrow_quant/kernels/to_float32.h"
#include "arrow_quant/numeric/convert.h"

namespace arrow_quant {
namespace {

std::vector<float> ReadScales(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* info = checkpoint.Find(name);
  if (info == nullptr) throw Error(ErrorCode::kCorruptFile, "the scale is missing", {.tensor = name});
  std::vector<float> scales(static_cast<std::size_t>(info->num_elements));
  FastToFloat32(info->dtype, checkpoint.Data(*info).data(), info->num_elements, scales.data());
  return scales;
}

void Multiply(std::span<const float> scales, const ScaleShape& shape, std::int64_t columns, std::span<float> values) {
  const std::int64_t per_row = (columns + shape.column_block - 1) / shape.column_block;
  const std::int64_t rows = static_cast<std::int64_t>(values.size()) / columns;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row_scales = scales.data() + r / shape.row_block * per_row;
    float* row = values.data() + r * columns;
    for (std::int64_t c = 0; c < columns; ++c) row[c] *= row_scales[c / shape.column_block];
  }
}

}  // namespace

ExpandedWeight ExpandFloat8(const Checkpoint& checkpoint, const TensorInfo& weight, const ScaleShape& shape) {
  ExpandedWeight expanded{weight, AlignedVector<float>(static_cast<std::size_t>(weight.num_elements))};
  expanded.info.dtype = DType::kF32;
  expanded.info.num_bytes = weight.num_elements * 4;
  if (expanded.values.empty()) return expanded;
  FastToFloat32(weight.dtype, checkpoint.Data(weight).data(), weight.num_elements, expanded.values.data());
  // A single scale covers a tensor of any rank, seen as one row.
  const std::int64_t columns = shape.single() ? weight.num_elements : weight.shape[1];
  Multiply(ReadScales(checkpoint, shape.scale), shape, columns, expanded.values);
  return expanded;
}

std::vector<std::byte> ToBFloat16Bytes(std::span<const float> values) {
  std::vector<std::byte> bytes(values.size() * 2);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = FloatToBF16(values[i]);
    std::memcpy(bytes.data() + 2 * i, &bits, 2);
  }
  return bytes;
}

}  // namespace arrow_quant
