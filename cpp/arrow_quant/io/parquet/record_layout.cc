#include "arrow_quant/io/parquet/record_layout.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "arrow_quant/base/dtype.h"

namespace arrow_quant {
namespace {

constexpr std::uint64_t kMaxElements = std::uint64_t{1} << 48;

// Throws for one record; shortens the checks below.
struct Complaint {
  const TensorRecord& record;
  const std::string& file;

  [[noreturn]] void operator()(const std::string& message, ErrorCode code = ErrorCode::kCorruptFile) const {
    ThrowTensorError(file, record.layer_name, message, code);
  }
  void Expect(const std::string& what, std::uint64_t found, std::uint64_t wanted) const {
    if (found == wanted) return;
    (*this)(what + " is " + std::to_string(found) + ", expected " + std::to_string(wanted), ErrorCode::kShapeMismatch);
  }
};

std::string ShapeText(const std::vector<std::uint64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

void CheckScheme(const TensorRecord& record, const Complaint& complain) {
  if (record.bits != 2 && record.bits != 3 && record.bits != 4 && record.bits != 8) {
    complain("bits is " + std::to_string(record.bits) + ", not 2, 3, 4 or 8");
  }
  if (BitsOfQuantType(record.quant_type) != record.bits) {
    complain("quant_type '" + record.quant_type + "' disagrees with bits " + std::to_string(record.bits));
  }
  if (record.packing != "lsb") complain("packing is '" + record.packing + "', not 'lsb'", ErrorCode::kUnsupported);
  if (record.grid != "affine" && record.grid != "residual_binary") {
    complain("grid is '" + record.grid + "', not 'affine' or 'residual_binary'", ErrorCode::kUnsupported);
  }
  if (record.grid == "residual_binary" && record.bits != 2) {
    complain("a residual_binary grid has 2 bits, not " + std::to_string(record.bits));
  }
  if (record.zero_point_kind != "float" && record.zero_point_kind != "none") {
    complain("zero_point_kind is '" + record.zero_point_kind + "', not 'float' or 'none'", ErrorCode::kUnsupported);
  }
  if (record.group_size.value_or(0) == 0) complain("group_size is 0 or missing");
}

void CheckAxes(const TensorRecord& record, const Complaint& complain) {
  const std::size_t rank = record.shape.size();
  if (record.quant_axis && *record.quant_axis >= std::max<std::size_t>(rank, 1)) {
    complain("quant_axis is " + std::to_string(*record.quant_axis) + " but the shape is " + ShapeText(record.shape));
  }
  // A scalar has no axis, yet the default row_rank of 1 stands for it as well.
  if (record.row_rank < 0 || static_cast<std::size_t>(record.row_rank) > std::max<std::size_t>(rank, 1)) {
    complain("row_rank is " + std::to_string(record.row_rank) + " but the shape is " + ShapeText(record.shape));
  }
}

void CheckPart(const TensorRecord& record, const RowLayout& layout, const Complaint& complain) {
  if (record.row_begin % kPartRowMultiple != 0) {
    complain("row_begin is " + std::to_string(record.row_begin) + ", not a multiple of " +
             std::to_string(kPartRowMultiple));
  }
  if (record.row_begin > layout.rows || record.row_count > layout.rows - record.row_begin) {
    complain("rows " + std::to_string(record.row_begin) + " + " + std::to_string(record.row_count) + " exceed the " +
                 std::to_string(layout.rows) + " rows of shape " + ShapeText(record.shape),
             ErrorCode::kShapeMismatch);
  }
}

void CheckFinite(const char* what, std::span<const float> values, const Complaint& complain) {
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  if (bad != values.end()) {
    complain(std::string(what) + "[" + std::to_string(bad - values.begin()) + "] is " + std::to_string(*bad));
  }
}

void CheckAscending(const char* what, const std::vector<double>& boundaries, const Complaint& complain) {
  for (std::size_t i = 0; i < boundaries.size(); ++i) {
    if (!std::isfinite(boundaries[i]) || (i > 0 && !(boundaries[i - 1] < boundaries[i]))) {
      complain(std::string(what) + "[" + std::to_string(i) + "] does not ascend");
    }
  }
}

// Gains and biases of every output channel in every time group.
void CheckCorrection(const TensorRecord& record, const Complaint& complain) {
  CheckAscending("correction_boundaries", record.correction_boundaries, complain);
  const std::size_t groups = record.correction_boundaries.empty() ? 0 : record.correction_boundaries.size() - 1;
  const std::uint64_t axis = record.quant_axis.value_or(0);
  const std::size_t outputs = axis < record.shape.size() ? record.shape[axis] : 0;
  complain.Expect("length of time_beta", record.time_beta.size(), groups * outputs);
  if (!record.time_gamma.empty()) {
    complain.Expect("length of time_gamma", record.time_gamma.size(), record.time_beta.size());
  }
}

// What is done to the layer's input has a value for each column.
void CheckTransform(const TensorRecord& record, const RowLayout& layout, const Complaint& complain) {
  if (!record.equalization_scales.empty()) {
    complain.Expect("length of equalization_scales", record.equalization_scales.size(), layout.cols);
  }
  if (!record.shift.empty()) complain.Expect("length of shift", record.shift.size(), layout.cols);
  for (const float scale : record.equalization_scales) {
    if (!(scale > 0)) complain("a scale of equalization_scales is " + std::to_string(scale));
  }
}

// The ranges of activations: one block size per group; scales and zero points side by side.
void CheckTimeTables(const TensorRecord& record, const Complaint& complain) {
  const std::vector<double>& boundaries = record.time_boundaries;
  const std::size_t groups = record.time_block_sizes.size();
  complain.Expect("length of time_boundaries", boundaries.size(), groups == 0 ? 0 : groups + 1);
  complain.Expect("length of time_zero_points", record.time_zero_points.size(), record.time_scales.size());
  if (groups > 0 && record.time_scales.size() < groups) complain("time_scales are fewer than time groups");
  CheckAscending("time_boundaries", boundaries, complain);
  for (const std::uint64_t size : record.time_block_sizes) {
    if (size == 0) complain("a block of time_block_sizes is 0");
  }
  for (const float scale : record.time_scales) {
    if (!(scale > 0)) complain("a scale of time_scales is " + std::to_string(scale));
  }
}

}  // namespace

void ThrowTensorError(const std::string& file, const std::string& tensor, const std::string& message, ErrorCode code,
                      const std::string& remedy) {
  throw Error(code, message, {.file = file, .tensor = tensor, .remedy = remedy});
}

std::optional<std::uint64_t> CountElements(std::span<const std::uint64_t> shape) {
  std::uint64_t product = 1;
  bool has_zero = false;
  for (const std::uint64_t size : shape) {
    if (size == 0) has_zero = true;
    if (size > 1 && product > kMaxElements / size) return std::nullopt;
    if (size > 1) product *= size;
  }
  return has_zero ? 0 : product;
}

std::optional<int> BitsOfQuantType(std::string_view quant_type) {
  const std::string_view stem = quant_type.substr(0, quant_type.find('_'));
  for (const auto& [name, bits] : {std::pair{"int2", 2}, {"int3", 3}, {"int4", 4}, {"int8", 8}}) {
    if (stem == name) return bits;
  }
  return std::nullopt;
}

bool IsRawQuantType(std::string_view quant_type) {
  constexpr std::array<std::string_view, 10> kNames = {"",     "none", "unquantized", "float32",  "fp32",
                                                       "fp16", "bf16", "float16",     "bfloat16", "float64"};
  return std::find(kNames.begin(), kNames.end(), quant_type) != kNames.end();
}

std::uint64_t ElementBytes(const TensorRecord& record, const std::string& file) {
  const std::optional<DType> dtype = DTypeFromTorch(record.dtype);
  if (!dtype) {
    ThrowTensorError(file, record.layer_name, "dtype '" + record.dtype + "' is not known", ErrorCode::kUnsupported);
  }
  return ByteSize(*dtype);
}

RowLayout CheckFields(const TensorRecord& record, const std::string& file) {
  const Complaint complain{record, file};
  if (record.layer_name.empty()) complain("layer_name is empty");
  const std::optional<std::uint64_t> count = CountElements(record.shape);
  if (!count) complain("shape " + ShapeText(record.shape) + " overflows", ErrorCode::kShapeMismatch);
  complain.Expect("num_params of shape " + ShapeText(record.shape), record.num_params, *count);
  CheckAxes(record, complain);
  ElementBytes(record, file);

  std::vector<std::uint64_t> sizes = record.shape;
  if (record.quant_axis && !sizes.empty()) {
    const auto axis = sizes.begin() + static_cast<std::ptrdiff_t>(*record.quant_axis);
    std::rotate(sizes.begin(), axis, axis + 1);
  }
  const std::size_t split = std::min(static_cast<std::size_t>(record.row_rank), sizes.size());
  RowLayout layout;
  layout.rows = *CountElements(std::span(sizes).first(split));
  layout.cols = *CountElements(std::span(sizes).subspan(split));
  CheckPart(record, layout, complain);

  if (record.quant_type == "none") {
    complain.Expect("bits of a tensor that is not quantized", static_cast<std::uint64_t>(record.bits), 0);
    if (record.rotation_seed) complain("a rotation_seed of a tensor that is not quantized");
    return layout;
  }
  CheckScheme(record, complain);
  layout.groups = layout.cols == 0 ? 0 : (layout.cols - 1) / *record.group_size + 1;
  return layout;
}

std::uint64_t CellBytes(const TensorRecord& record, const RowLayout& layout, std::uint64_t row_count,
                        const std::string& file) {
  const std::uint64_t elements = row_count * layout.cols;
  if (record.bits == 0) return elements * ElementBytes(record, file);
  return (elements * static_cast<std::uint64_t>(record.bits) + 7) / 8;
}

void CheckCells(const TensorRecord& record, const RowLayout& layout, const std::string& file) {
  const Complaint complain{record, file};
  complain.Expect("length of data", record.data.size(), CellBytes(record, layout, record.row_count, file));
  const std::uint64_t groups = record.row_count * layout.groups;
  complain.Expect("length of scales", record.scales.size(), groups);
  complain.Expect("length of zero_points", record.zero_points.size(), record.zero_point_kind == "float" ? groups : 0);
  complain.Expect("length of residual_scales", record.residual_scales.size(),
                  record.grid == "residual_binary" ? groups : 0);
  for (const auto& [what, values] : {std::pair{"scales", record.scales},
                                     {"zero_points", record.zero_points},
                                     {"residual_scales", record.residual_scales},
                                     {"time_scales", record.time_scales},
                                     {"time_zero_points", record.time_zero_points},
                                     {"time_gamma", record.time_gamma},
                                     {"time_beta", record.time_beta},
                                     {"time_gains", record.time_gains},
                                     {"equalization_scales", record.equalization_scales},
                                     {"shift", record.shift}}) {
    CheckFinite(what, values, complain);
  }
  CheckTransform(record, layout, complain);
  CheckTimeTables(record, complain);
  CheckCorrection(record, complain);
}

std::vector<RowRange> PlanParts(std::uint64_t rows, std::uint64_t bits_per_row, std::uint64_t max_bytes) {
  const std::uint64_t multiple_bytes = std::max<std::uint64_t>(bits_per_row * kPartRowMultiple / 8, 1);
  const std::uint64_t step = std::max<std::uint64_t>(max_bytes / multiple_bytes, 1) * kPartRowMultiple;
  std::vector<RowRange> parts;
  for (std::uint64_t begin = 0; begin < rows || parts.empty(); begin += step) {
    parts.push_back({begin, std::min(step, rows - begin)});
  }
  return parts;
}

}  // namespace arrow_quant
