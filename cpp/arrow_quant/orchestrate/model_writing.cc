#include "arrow_quant/orchestrate/model_writing.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/version.h"
#include "arrow_quant/io/atomic_file.h"
#include "arrow_quant/io/parquet/manifest.h"
#include "arrow_quant/orchestrate/activation_tables.h"
#include "arrow_quant/orchestrate/run_key.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Everything of a row but its values.
TensorRecord BaseRecord(const TensorInfo& info, const TensorReport& report, const std::string& modality) {
  TensorRecord record;
  record.layer_name = info.name;
  for (std::int64_t d : info.shape) record.shape.push_back(static_cast<std::uint64_t>(d));
  record.dtype = report.dtype;
  record.num_params = static_cast<std::uint64_t>(info.num_elements);
  record.is_diffusion_model = !modality.empty();
  if (!modality.empty()) record.modality = modality;
  record.method = report.method;
  record.reason = report.reason;
  record.component = report.component;
  record.report_json = ToJson(report);
  return record;
}

// The ranges of activations go with the first part of a tensor.
void AddActivations(const ActivationTable& table, TensorRecord& record) {
  if (table.empty()) return;
  record.time_boundaries = table.boundaries;
  record.time_block_sizes.assign(table.block_sizes.begin(), table.block_sizes.end());
  record.time_scales = table.scales;
  record.time_zero_points = table.zero_points;
  record.shift = table.shift;
  record.time_aware_quant_json = TimeAwareJson(table);
}

// So does the correction of outputs.
void AddCorrection(const TensorOutcome& outcome, TensorRecord& record) {
  record.correction_boundaries = outcome.correction_boundaries;
  record.time_gamma = outcome.correction.gains;
  record.time_beta = outcome.correction.biases;
}

void RemoveTimeTables(TensorRecord& record) {
  record.correction_boundaries.clear();
  record.time_gamma = {};
  record.time_beta = {};
  record.time_boundaries.clear();
  record.time_block_sizes.clear();
  record.shift = {};
  record.spatial_quant_json.reset();
  record.time_scales = {};
  record.time_zero_points = {};
  record.time_aware_quant_json.reset();
}

// What the JSON column of the older layout can hold: whether input channels are scaled and shifted, and one scale for
// each. Its readers never applied them, and ours take them from columns of their own.
std::optional<std::string> SpatialJson(const TensorOutcome& outcome, std::int64_t taps) {
  const std::string& kind = outcome.report.spatial.equalization;
  const bool equalized = kind == "balance" || kind == "grid";
  const bool shifted = !outcome.activations.shift.empty();
  if (!equalized && !shifted) return std::nullopt;
  Json scales = Json::array();
  const std::vector<float>& columns = outcome.matrix.column_scales;
  for (std::size_t c = 0; equalized && c < columns.size(); c += static_cast<std::size_t>(taps)) {
    scales.push_back(columns[c]);
  }
  return Json{{"enabled", true},
              {"channel_equalization", equalized},
              {"activation_smoothing", shifted},
              {"equalization_scales", std::move(scales)}}
      .dump();
}

// Whether a reader of the first version would misread a tensor: its values, or the ranges of its input.
bool NeedsSecondVersion(const ModelResult& result) {
  return std::any_of(result.tensors.begin(), result.tensors.end(),
                     [](const TensorReport& report) { return report.spatial.rotation || report.spatial.shift; });
}

// Rows in one part, a multiple of kPartRowMultiple, so that a part's bytes stay near kPreferredCellBytes.
std::uint64_t RowsPerPart(std::uint64_t rows, std::uint64_t bytes) {
  if (bytes <= kPreferredCellBytes || rows <= kPartRowMultiple) return std::max<std::uint64_t>(rows, 1);
  const std::uint64_t per_row = std::max<std::uint64_t>(bytes / rows, 1);
  const std::uint64_t part = std::max<std::uint64_t>(kPreferredCellBytes / per_row / kPartRowMultiple, 1);
  return part * kPartRowMultiple;
}

Json QuantizationInfo(const ModelOptions& options, const ModelResult& result) {
  return {{"quant_method", "arrow_quant_v2"},  {"format", "parquet_v2_extended"},    {"version", kVersion},
          {"bit_width", options.bit_width},    {"group_size", options.group_size},   {"strategy", result.strategy},
          {"calibration", result.calibration}, {"num_parameters", result.num_params}};
}

Json ParseObject(const std::string& text, const fs::path& file) {
  if (text.empty()) return Json::object();
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) {
    throw Error(ErrorCode::kCorruptFile, "is not a JSON object",
                {.file = file.string(), .remedy = "Repair or remove it."});
  }
  return json;
}

void WriteJson(const fs::path& path, const Json& json) {
  WriteFileAtomically(path, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void CopyOthers(const ModelSource& source, const fs::path& directory) {
  for (const std::string& name : source.other_files) {
    const fs::path target = directory / name;
    fs::create_directories(target.parent_path());
    CopyFileAtomically(source.root / name, target);
  }
}

}  // namespace

ComponentWriting::ComponentWriting(const SourceComponent& component, fs::path directory, std::string modality)
    : component_(component), directory_(std::move(directory)), modality_(std::move(modality)) {
  fs::create_directories(directory_);
  if (component.checkpoint.tensors().empty()) {
    throw Error(ErrorCode::kCorruptFile, "the checkpoint has no tensors",
                {.file = component.checkpoint.files().front().path.string()});
  }
}

void ComponentWriting::OpenFor(int file_index) {
  if (writer_) return;
  const fs::path& source = component_.checkpoint.files()[static_cast<std::size_t>(file_index)].path;
  writer_ =
      std::make_unique<ParquetModelWriter>(directory_ / (source.stem().string() + ".parquet"),
                                           WriterOptions{.key_value_metadata = {{"arrow_quant.version", kVersion}}});
}

void ComponentWriting::AppendQuantized(const TensorInfo& info, const MatrixShape& matrix,
                                       const TensorOutcome& outcome) {
  const QuantizedMatrix& m = outcome.matrix;
  const auto rows = static_cast<std::uint64_t>(m.rows);
  const auto groups = static_cast<std::uint64_t>(m.groups());
  const std::uint64_t step = RowsPerPart(rows, m.codes.size());
  TensorRecord record = BaseRecord(info, outcome.report, modality_);
  record.quant_type = "int" + std::to_string(m.bits);
  record.quant_axis = static_cast<std::uint64_t>(matrix.quant_axis);
  record.group_size = static_cast<std::uint64_t>(m.group_size);
  record.bits = m.bits;
  record.packing = "lsb";
  record.grid = GridKindName(m.grid);
  record.zero_point_kind = "float";
  record.row_rank = matrix.row_rank;
  record.equalization_scales = m.column_scales;
  record.rotation_seed = m.rotation_seed;
  if (!outcome.report.spatial.producer.empty()) record.equalization_producer = outcome.report.spatial.producer;
  record.spatial_quant_json = SpatialJson(outcome, InputLayoutOf(info, matrix, 1).taps);
  AddActivations(outcome.activations, record);
  AddCorrection(outcome, record);
  for (std::uint64_t begin = 0; begin < rows; begin += step) {
    const std::uint64_t count = std::min(step, rows - begin);
    const auto cols = static_cast<std::uint64_t>(m.cols);
    const std::uint64_t first_byte = begin * cols * static_cast<std::uint64_t>(m.bits) / 8;
    const auto bytes = static_cast<std::uint64_t>(PackedBytes(static_cast<std::int64_t>(count * cols), m.bits));
    record.row_begin = begin;
    record.row_count = count;
    record.data = std::span(m.codes).subspan(first_byte, bytes);
    record.scales = std::span(m.scales).subspan(begin * groups, count * groups);
    record.zero_points = std::span(m.zero_points).subspan(begin * groups, count * groups);
    if (!m.residual_scales.empty()) {
      record.residual_scales = std::span(m.residual_scales).subspan(begin * groups, count * groups);
    }
    writer_->Append(record);
    RemoveTimeTables(record);
  }
}

void ComponentWriting::AppendKept(const TensorInfo& info, const TensorOutcome& outcome) {
  const std::span<const std::byte> bytes =
      outcome.replacement.empty() ? component_.checkpoint.Data(info) : std::span(outcome.replacement);
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  TensorRecord record = BaseRecord(info, outcome.report, modality_);
  const std::uint64_t rows = info.shape.empty() ? 1 : static_cast<std::uint64_t>(info.shape[0]);
  const std::uint64_t step = RowsPerPart(rows, bytes.size());
  if (step >= rows) {
    record.data = {data, bytes.size()};
    writer_->Append(record);
    return;
  }
  const std::uint64_t per_row = bytes.size() / rows;
  for (std::uint64_t begin = 0; begin < rows; begin += step) {
    record.row_begin = begin;
    record.row_count = std::min(step, rows - begin);
    record.data = {data + begin * per_row, record.row_count * per_row};
    writer_->Append(record);
  }
}

void ComponentWriting::Append(const TensorInfo& info, const MatrixShape& matrix, const TensorOutcome& outcome) {
  OpenFor(info.file_index);
  if (outcome.report.quantized) {
    AppendQuantized(info, matrix, outcome);
  } else {
    AppendKept(info, outcome);
  }
}

std::optional<WrittenFile> ComponentWriting::CloseFile() {
  if (!writer_) return std::nullopt;
  WrittenFile file = writer_->Close();
  writer_.reset();
  return file;
}

void WriteSideFiles(const ModelSource& source, const ModelOptions& options, const ModelResult& result,
                    const std::vector<WrittenFile>& files, const fs::path& directory) {
  CopyOthers(source, directory);
  const Json info = QuantizationInfo(options, result);
  for (const SourceComponent& component : source.components) {
    if (component.config_json.empty()) continue;
    const fs::path path = directory / component.directory / "config.json";
    Json config = ParseObject(component.config_json, path);
    config["quantization_config"] = info;
    WriteJson(path, config);
  }
  Json metadata = ParseObject(source.metadata_json, source.root / "metadata.json");
  if (!result.modality.empty()) metadata["modality"] = result.modality;
  metadata["format"] = "parquet_v2_extended";
  metadata["quantization"] = info;
  WriteJson(directory / "metadata.json", metadata);
  Manifest manifest;
  manifest.product_version = kVersion;
  if (NeedsSecondVersion(result)) manifest.format_version = kFormatVersion;
  manifest.fingerprints["source"] = SourceFingerprint(source);
  for (const WrittenFile& file : files) {
    manifest.files.push_back({fs::relative(file.path, directory).generic_string(), file.bytes, file.checksum});
  }
  manifest.extra_json = Json{{"format", "parquet_v2_extended"}, {"quantization", info}}.dump();
  WriteManifest(directory, manifest);
}

}  // namespace arrow_quant
