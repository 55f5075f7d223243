#include "arrow_quant/io/parquet/model_reader.h"

#include <algorithm>
#include <array>
#include <map>
#include <new>
#include <optional>
#include <system_error>
#include <utility>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/error.h"
#include "arrow_quant/io/parquet/arrow_status.h"
#include "arrow_quant/io/parquet/parquet_file.h"
#include "arrow_quant/io/parquet/record_layout.h"
#include "arrow_quant/io/parquet/record_row.h"

namespace arrow_quant {
namespace {

// Where a part of a tensor lies.
struct Place {
  std::size_t file = 0;
  int row_group = 0;
  std::int64_t row = 0;
  std::uint64_t row_begin = 0;
  std::uint64_t row_count = 0;
};

using Key = std::pair<std::string, std::string>;  // component, name

std::vector<std::filesystem::path> ParquetFilesIn(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const std::filesystem::path& path = it->path();
    if (path.extension() == ".parquet" && path.filename().string().front() != '.') files.push_back(path);
  }
  if (error) {
    throw Error(ErrorCode::kIo, "cannot list the directory: " + error.message(), {.file = directory.string()});
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Parts of one tensor must agree in everything that describes the whole.
bool SameTensor(const TensorRecord& a, const TensorRecord& b) {
  return a.shape == b.shape && a.dtype == b.dtype && a.quant_type == b.quant_type && a.bits == b.bits &&
         a.grid == b.grid && a.packing == b.packing && a.zero_point_kind == b.zero_point_kind &&
         a.group_size == b.group_size && a.quant_axis == b.quant_axis && a.row_rank == b.row_rank &&
         a.rotation_seed == b.rotation_seed;
}

// Share of a row group's bytes that goes to a row, by what its cells hold before compression.
std::uint64_t Weight(const TensorRecord& record) {
  constexpr std::uint64_t kFixed = 64;
  return kFixed + record.num_params * static_cast<std::uint64_t>(record.bits == 0 ? 16 : record.bits) / 8;
}

// One more range at the end of a joined one.
template <typename T>
void Extend(AlignedVector<T>* joined, std::span<const T> part) {
  joined->insert(joined->end(), part.begin(), part.end());
}

struct JoinedCells {
  AlignedVector<std::uint8_t> data;
  AlignedVector<float> scales, zero_points, residual_scales;
  LoadedTensor first;  // owns the tables that belong to the whole tensor
};

}  // namespace

std::string_view ParquetLayoutName(ParquetLayout layout) {
  constexpr std::array<std::string_view, 5> kNames = {"v1", "v2_base_python", "v2_base_rust", "v2_extended",
                                                      "arrow_quant"};
  return kNames[static_cast<std::size_t>(layout)];
}

struct ParquetModel::State {
  std::filesystem::path path;
  std::vector<std::unique_ptr<ParquetFile>> files;
  std::vector<std::filesystem::path> ignored;
  std::vector<TensorEntry> entries;
  std::vector<std::vector<Place>> places;  // of each entry, by row_begin
  std::map<Key, std::size_t> index;
  std::multimap<std::string, std::size_t> by_name;

  void AddFile(std::unique_ptr<ParquetFile> file);
  void AddRow(TensorRecord record, const Place& place, std::uint64_t stored_bytes);
  void CheckParts();
  LoadedTensor LoadPart(const Place& place) const;
  LoadedTensor Join(std::size_t entry) const;
};

void ParquetModel::State::AddFile(std::unique_ptr<ParquetFile> file) {
  files.push_back(std::move(file));
  const ParquetFile& source = *files.back();
  for (int group = 0; group < source.row_groups(); ++group) {
    const auto batch = source.ReadDescriptions(group);
    std::vector<TensorRecord> records;
    std::uint64_t total = 0;
    for (std::int64_t row = 0; row < source.rows(group); ++row) {
      const RowAccess access({batch, row, false}, source.path().string());
      records.push_back(ReadDescription(access, source.layout()));
      total += Weight(records.back());
    }
    const auto stored = static_cast<double>(source.stored_bytes(group));
    for (std::size_t row = 0; row < records.size(); ++row) {
      const double share = static_cast<double>(Weight(records[row])) / static_cast<double>(total);
      const Place place{files.size() - 1, group, static_cast<std::int64_t>(row), records[row].row_begin,
                        records[row].row_count};
      AddRow(std::move(records[row]), place, static_cast<std::uint64_t>(stored * share));
    }
  }
}

void ParquetModel::State::AddRow(TensorRecord record, const Place& place, std::uint64_t stored_bytes) {
  const ParquetFile& source = *files[place.file];
  const auto [found, is_new] = index.emplace(Key{record.component, record.layer_name}, entries.size());
  if (is_new) {
    by_name.emplace(record.layer_name, entries.size());
    entries.push_back({std::move(record), source.layout(), source.path(), 1, stored_bytes});
    places.push_back({place});
    return;
  }
  TensorEntry& entry = entries[found->second];
  const std::string file = source.path().string();
  if (source.layout() != ParquetLayout::kArrowQuant || entry.layout != ParquetLayout::kArrowQuant) {
    ThrowTensorError(file, record.layer_name, "the tensor is also in " + entry.file.string());
  }
  if (!SameTensor(entry.record, record))
    ThrowTensorError(file, record.layer_name, "two parts disagree about the tensor");
  entry.stored_bytes += stored_bytes;
  ++entry.parts;
  places[found->second].push_back(place);
}

void ParquetModel::State::CheckParts() {
  for (std::size_t i = 0; i < entries.size(); ++i) {
    TensorEntry& entry = entries[i];
    if (entry.layout != ParquetLayout::kArrowQuant) continue;
    std::vector<Place>& parts = places[i];
    std::sort(parts.begin(), parts.end(), [](const Place& a, const Place& b) { return a.row_begin < b.row_begin; });
    const std::string file = files[parts[0].file]->path().string();
    std::uint64_t next = 0;
    for (const Place& part : parts) {
      if (part.row_begin < next || (parts.size() > 1 && part.row_count == 0)) {
        ThrowTensorError(file, entry.record.layer_name, "row " + std::to_string(part.row_begin) + " is there twice");
      }
      if (part.row_begin > next) break;
      next += part.row_count;
    }
    entry.record.row_begin = 0;
    const std::uint64_t rows = CheckFields(entry.record, file).rows;
    if (next != rows) {
      ThrowTensorError(file, entry.record.layer_name,
                       "rows from " + std::to_string(next) + " of " + std::to_string(rows) + " are missing",
                       ErrorCode::kCorruptFile, "Restore the missing file or write the model again.");
    }
    entry.record.row_count = rows;
  }
}

LoadedTensor ParquetModel::State::LoadPart(const Place& place) const {
  const ParquetFile& source = *files[place.file];
  const std::string file = source.path().string();
  return WithArrowErrors(file, ErrorCode::kCorruptFile,
                         [&] { return ReadCells(source.ReadRow(place.row_group, place.row), file, source.layout()); });
}

LoadedTensor ParquetModel::State::Join(std::size_t entry) const {
  const auto cells = std::make_shared<JoinedCells>();
  LoadedTensor whole;
  for (const Place& place : places[entry]) {
    LoadedTensor part = LoadPart(place);
    if (part.record.row_begin != place.row_begin || part.record.row_count != place.row_count ||
        !SameTensor(part.record, entries[entry].record)) {
      ThrowTensorError(part.file.string(), part.record.layer_name, "the row changed while it was being read",
                       ErrorCode::kIo);
    }
    if (cells->first.owner == nullptr) {
      // The first part has passed its checks, so its size is real; more than all cells can hold is not believed.
      const std::uint64_t estimate =
          part.record.data.size() / std::max<std::uint64_t>(part.record.row_count, 1) * entries[entry].record.row_count;
      cells->data.reserve(std::min(estimate + 8, places[entry].size() * kMaxCellBytes));
    }
    Extend(&cells->data, part.record.data);
    Extend(&cells->scales, part.record.scales);
    Extend(&cells->zero_points, part.record.zero_points);
    Extend(&cells->residual_scales, part.record.residual_scales);
    if (cells->first.owner == nullptr) cells->first = std::move(part);
  }
  whole = cells->first;
  whole.record.data = cells->data;
  whole.record.scales = cells->scales;
  whole.record.zero_points = cells->zero_points;
  whole.record.residual_scales = cells->residual_scales;
  whole.record.row_count = entries[entry].record.row_count;
  whole.owner = cells;
  return whole;
}

ParquetModel::ParquetModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
ParquetModel::ParquetModel(ParquetModel&&) noexcept = default;
ParquetModel& ParquetModel::operator=(ParquetModel&&) noexcept = default;
ParquetModel::~ParquetModel() = default;

ParquetModel ParquetModel::Open(const std::filesystem::path& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    throw Error(ErrorCode::kModelNotFound, "no such file or directory",
                {.file = path.string(), .remedy = "Check the path."});
  }
  const bool is_directory = std::filesystem::is_directory(status);
  const std::vector<std::filesystem::path> paths =
      is_directory ? ParquetFilesIn(path) : std::vector<std::filesystem::path>{path};
  for (const std::filesystem::path& file_path : paths) {
    WithArrowErrors(file_path.string(), ErrorCode::kCorruptFile, [&] {
      auto file = std::make_unique<ParquetFile>(file_path);
      if (file->HasTensors()) {
        state->AddFile(std::move(file));
      } else if (is_directory) {
        state->ignored.push_back(file_path);
      } else {
        throw Error(ErrorCode::kCorruptFile, "columns 'layer_name' and 'data' are missing",
                    {.file = file_path.string(), .remedy = "Give a Parquet file that holds a model."});
      }
    });
  }
  if (state->files.empty()) {
    throw Error(ErrorCode::kModelNotFound, "no Parquet file with tensors",
                {.file = path.string(), .remedy = "Give the directory that the quantizer wrote."});
  }
  state->CheckParts();
  return ParquetModel(std::move(state));
}

const std::vector<TensorEntry>& ParquetModel::tensors() const { return state_->entries; }

const std::vector<std::filesystem::path>& ParquetModel::ignored_files() const { return state_->ignored; }

std::size_t ParquetModel::Find(std::string_view name, std::string_view component) const {
  const std::string file = state_->path.string();
  const auto exact = state_->index.find(Key{std::string(component), std::string(name)});
  if (exact != state_->index.end()) return exact->second;
  const auto [begin, end] = state_->by_name.equal_range(std::string(name));
  if (begin == end || !component.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "no such tensor", {.file = file, .tensor = std::string(name)});
  }
  if (std::next(begin) != end) {
    throw Error(ErrorCode::kInvalidArgument, "several components have a tensor of this name",
                {.file = file, .tensor = std::string(name), .remedy = "Give the component as well."});
  }
  return begin->second;
}

LoadedTensor ParquetModel::Load(std::size_t index) const {
  if (index >= state_->entries.size()) {
    throw Error(ErrorCode::kInvalidArgument, "tensor index " + std::to_string(index) + " is out of range",
                {.file = state_->path.string()});
  }
  const std::vector<Place>& places = state_->places[index];
  if (places.size() == 1) return state_->LoadPart(places[0]);
  return WithArrowErrors(state_->entries[index].file.string(), ErrorCode::kCorruptFile,
                         [&] { return state_->Join(index); });
}

}  // namespace arrow_quant
