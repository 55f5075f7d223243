#include "arrow_quant/io/parquet/record_row.h"

#include <arrow/record_batch.h>

#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/error.h"
#include "arrow_quant/io/parquet/record_layout.h"

namespace arrow_quant {
namespace {

// What the ranges of a LoadedTensor point to.
struct Holder {
  std::shared_ptr<arrow::RecordBatch> batch;
  AlignedVector<std::uint8_t> bytes;
  std::vector<AlignedVector<float>> floats;
};

struct FloatColumn {
  const char* name;
  std::span<const float> TensorRecord::* member;
};

constexpr std::array kFloatColumns = {FloatColumn{"scales", &TensorRecord::scales},
                                      FloatColumn{"zero_points", &TensorRecord::zero_points},
                                      FloatColumn{"residual_scales", &TensorRecord::residual_scales},
                                      FloatColumn{"time_scales", &TensorRecord::time_scales},
                                      FloatColumn{"time_zero_points", &TensorRecord::time_zero_points},
                                      FloatColumn{"time_gamma", &TensorRecord::time_gamma},
                                      FloatColumn{"time_beta", &TensorRecord::time_beta},
                                      FloatColumn{"time_gains", &TensorRecord::time_gains},
                                      FloatColumn{"equalization_scales", &TensorRecord::equalization_scales},
                                      FloatColumn{"shift", &TensorRecord::shift}};

std::optional<std::uint64_t> OptionalSize(const RowAccess& row, const char* column, std::int64_t absent) {
  const std::optional<std::int64_t> value = row.Integer(column);
  if (!value || *value == absent) return std::nullopt;
  return row.RequiredSize(column);
}

std::string_view WithoutTorchPrefix(std::string_view dtype) {
  constexpr std::string_view kPrefix = "torch.";
  return dtype.starts_with(kPrefix) ? dtype.substr(kPrefix.size()) : dtype;
}

void ReadOurFields(const RowAccess& row, TensorRecord* record) {
  record->bits = static_cast<std::int32_t>(std::min<std::uint64_t>(row.RequiredSize("bits"), 1000));
  record->packing = row.RequiredText("packing");
  record->grid = row.RequiredText("grid");
  record->zero_point_kind = row.RequiredText("zero_point_kind");
  record->row_rank = static_cast<std::int32_t>(std::min<std::uint64_t>(row.RequiredSize("row_rank"), 1000));
  record->row_begin = row.RequiredSize("row_begin");
  record->row_count = row.RequiredSize("row_count");
  record->method = row.RequiredText("method");
  record->reason = row.RequiredText("reason");
  record->component = row.RequiredText("component");
  record->report_json = row.RequiredText("report_json");
  if (row.Integer("rotation_seed")) record->rotation_seed = row.RequiredSize("rotation_seed");
  record->equalization_producer = row.Text("equalization_producer");
}

// The older layouts say less; the rest is derived or left at "none".
void CheckOldFields(const RowAccess& row, TensorRecord* record) {
  const std::optional<std::uint64_t> count = CountElements(record->shape);
  if (!count) ThrowTensorError(row.file(), record->layer_name, "the shape overflows", ErrorCode::kShapeMismatch);
  if (*count != record->num_params) {
    ThrowTensorError(row.file(), record->layer_name,
                     "num_params is " + std::to_string(record->num_params) + " but the shape has " +
                         std::to_string(*count) + " elements",
                     ErrorCode::kShapeMismatch);
  }
  if (IsRawQuantType(record->quant_type)) return;
  const std::optional<int> bits = BitsOfQuantType(record->quant_type);
  if (!bits || *bits == 3) {
    ThrowTensorError(row.file(), record->layer_name, "quant_type '" + record->quant_type + "' is not known",
                     ErrorCode::kUnsupported);
  }
  record->bits = *bits;
}

template <typename T>
std::span<const T> CopyInto(std::span<const T> cell, AlignedVector<T>* memory) {
  memory->assign(cell.begin(), cell.end());
  return *memory;
}

// Float32 little-endian bytes, as the Python writer stored scales.
std::span<const float> FloatsFromBytes(const RowAccess& row, const char* column, const std::string& tensor,
                                       AlignedVector<float>* memory) {
  const std::span<const std::uint8_t> bytes = row.Bytes(column).value_or(std::span<const std::uint8_t>());
  if (bytes.size() % sizeof(float) != 0) {
    ThrowTensorError(row.file(), tensor,
                     std::string(column) + " has " + std::to_string(bytes.size()) + " bytes, not whole float32 values",
                     ErrorCode::kShapeMismatch);
  }
  memory->resize(bytes.size() / sizeof(float));
  if (!bytes.empty()) std::memcpy(memory->data(), bytes.data(), bytes.size());
  return *memory;
}

void ReadFloats(const RowAccess& row, ParquetLayout layout, bool alone, TensorRecord* record, Holder* holder) {
  if (layout == ParquetLayout::kV1) return;
  holder->floats.reserve(kFloatColumns.size());
  for (const FloatColumn& column : kFloatColumns) {
    if (layout == ParquetLayout::kV2BasePython) {
      if (column.member != &TensorRecord::scales && column.member != &TensorRecord::zero_points) continue;
      record->*column.member = FloatsFromBytes(row, column.name, record->layer_name, &holder->floats.emplace_back());
      continue;
    }
    const std::span<const float> cell = row.Floats(column.name).value_or(std::span<const float>());
    record->*column.member = alone ? cell : CopyInto(cell, &holder->floats.emplace_back());
  }
}

}  // namespace

TensorRecord ReadDescription(const RowAccess& row, ParquetLayout layout) {
  TensorRecord record;
  record.layer_name = row.RequiredText("layer_name");
  record.shape = row.RequiredSizes("shape");
  record.dtype = WithoutTorchPrefix(row.RequiredText("dtype"));
  record.num_params = row.RequiredSize("num_params");
  record.quant_type = row.Text("quant_type").value_or("none");
  const bool ours = layout == ParquetLayout::kArrowQuant;
  // -1 and 0 are how the Python writer says "none"; in ours they are errors.
  record.quant_axis = OptionalSize(row, "quant_axis", ours ? INT64_MIN : -1);
  record.group_size = OptionalSize(row, "group_size", ours ? INT64_MIN : 0);
  record.is_diffusion_model = row.Boolean("is_diffusion_model").value_or(false);
  record.modality = row.Text("modality");
  record.time_aware_quant_json = row.Text("time_aware_quant_json");
  record.spatial_quant_json = row.Text("spatial_quant_json");
  if (ours) {
    ReadOurFields(row, &record);
    CheckFields(record, row.file());
  } else {
    CheckOldFields(row, &record);
  }
  return record;
}

LoadedTensor ReadCells(const BatchRow& batch_row, const std::string& file, ParquetLayout layout) {
  const RowAccess row(batch_row, file);
  const auto holder = std::make_shared<Holder>();
  LoadedTensor tensor;
  tensor.layout = layout;
  tensor.file = file;
  tensor.record = ReadDescription(row, layout);
  tensor.record.activation_stats_json = row.Text("activation_stats_json");
  const std::optional<std::span<const std::uint8_t>> data = row.Bytes("data");
  if (!data) ThrowTensorError(file, tensor.record.layer_name, "the data cell is null");
  tensor.record.data = batch_row.alone ? *data : CopyInto(*data, &holder->bytes);
  ReadFloats(row, layout, batch_row.alone, &tensor.record, holder.get());
  if (layout == ParquetLayout::kArrowQuant) {
    tensor.record.time_boundaries = row.Doubles("time_boundaries").value_or(std::vector<double>());
    tensor.record.correction_boundaries = row.Doubles("correction_boundaries").value_or(std::vector<double>());
    tensor.record.time_block_sizes = row.Sizes("time_block_sizes").value_or(std::vector<std::uint64_t>());
  }
  if (batch_row.alone) holder->batch = batch_row.batch;
  tensor.owner = holder;
  if (layout == ParquetLayout::kArrowQuant) CheckCells(tensor.record, CheckFields(tensor.record, file), file);
  return tensor;
}

}  // namespace arrow_quant
