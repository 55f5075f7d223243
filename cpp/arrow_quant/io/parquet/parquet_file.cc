#include "arrow_quant/io/parquet/parquet_file.h"

#include <arrow/io/file.h>
#include <arrow/record_batch.h>
#include <arrow/table.h>
#include <arrow/type.h>
#include <fcntl.h>
#include <parquet/arrow/reader.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>
#include <parquet/properties.h>
#include <parquet/schema.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "arrow_quant/io/atomic_file.h"
#include "arrow_quant/io/parquet/arrow_status.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kMaxRows = std::int64_t{1} << 20;
constexpr std::int64_t kMaxCachedBytes = std::int64_t{64} << 20;
constexpr std::int64_t kReadBufferBytes = std::int64_t{1} << 20;

// Columns that are as large as the tensor's values or statistics; not read for a listing.
bool HoldsValues(std::string_view column) {
  constexpr std::array<std::string_view, 15> kNames = {"data",
                                                       "scales",
                                                       "zero_points",
                                                       "residual_scales",
                                                       "time_boundaries",
                                                       "time_block_sizes",
                                                       "time_scales",
                                                       "time_zero_points",
                                                       "correction_boundaries",
                                                       "time_gamma",
                                                       "time_beta",
                                                       "time_gains",
                                                       "equalization_scales",
                                                       "shift",
                                                       "activation_stats_json"};
  return std::find(kNames.begin(), kNames.end(), column) != kNames.end();
}

[[noreturn]] void ThrowCorrupt(const std::string& file, const std::string& message, const std::string& remedy = "") {
  throw Error(ErrorCode::kCorruptFile, message, {.file = file, .remedy = remedy});
}

struct FileStamp {
  std::uint64_t size = 0;
  std::int64_t modified = 0;
};

FileStamp StampOf(const std::filesystem::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) ThrowErrno(errno, "cannot open", path);
  if (!S_ISREG(status.st_mode)) ThrowCorrupt(path.string(), "not a regular file");
  return {static_cast<std::uint64_t>(status.st_size),
          static_cast<std::int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec};
}

// Recognize common mix-ups by the first bytes, which say more than "magic bytes not found".
void CheckMagic(const std::filesystem::path& path) {
  std::array<char, 8> head{};
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) ThrowErrno(errno, "cannot open", path);
  const ssize_t got = ::pread(fd, head.data(), head.size(), 0);
  ::close(fd);
  const std::string_view text(head.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  if (text.starts_with("version ")) {
    ThrowCorrupt(path.string(), "this is a Git LFS pointer, not the file itself",
                 "Run `git lfs pull` in the model's repository.");
  }
  if (!text.starts_with("PAR1")) ThrowCorrupt(path.string(), "not a Parquet file", "Fetch or write the file again.");
}

std::int64_t LargestChunkBytes(const parquet::RowGroupMetaData& group) {
  std::int64_t largest = 0;
  for (int i = 0; i < group.num_columns(); ++i) {
    largest = std::max(largest, group.ColumnChunk(i)->total_compressed_size());
  }
  return largest;
}

// A column chunk may hold a whole model; reading it page by page bounds the memory. Not so for a small one: the page
// reader then takes as much memory as a page header claims, and a file of a few bytes may claim 2 GB.
parquet::ReaderProperties FileProperties(bool page_by_page) {
  parquet::ReaderProperties properties;
  if (page_by_page) properties.enable_buffered_stream();
  properties.set_buffer_size(kReadBufferBytes);
  properties.set_page_checksum_verification(true);
  return properties;
}

parquet::ArrowReaderProperties ArrowProperties() {
  parquet::ArrowReaderProperties properties;
  properties.set_use_threads(false);
  properties.set_pre_buffer(false);  // it would read on Arrow's own threads
  properties.set_batch_size(1);      // matters to the cursor only
  return properties;
}

// To read one row group of a file, or its footer where `metadata` is null.
std::unique_ptr<parquet::arrow::FileReader> OpenReader(const std::string& name,
                                                       const std::shared_ptr<parquet::FileMetaData>& metadata,
                                                       int row_group = 0) {
  const bool page_by_page = metadata != nullptr && LargestChunkBytes(*metadata->RowGroup(row_group)) > kMaxCachedBytes;
  auto source = ValueOrThrow(arrow::io::ReadableFile::Open(name), name, ErrorCode::kIo);
  auto reader = parquet::ParquetFileReader::Open(std::move(source), FileProperties(page_by_page), metadata);
  return ValueOrThrow(
      parquet::arrow::FileReader::Make(arrow::default_memory_pool(), std::move(reader), ArrowProperties()), name,
      ErrorCode::kCorruptFile);
}

void CheckGroups(const parquet::FileMetaData& metadata, const std::string& name) {
  std::int64_t rows = 0;
  for (int group = 0; group < metadata.num_row_groups(); ++group) {
    const std::int64_t count = metadata.RowGroup(group)->num_rows();
    if (count < 0 || count > kMaxRows || (rows += count) > kMaxRows) {
      ThrowCorrupt(name, "row group " + std::to_string(group) + " claims " + std::to_string(count) + " rows");
    }
  }
}

bool IsBytes(const arrow::DataType& type) {
  return type.id() == arrow::Type::BINARY || type.id() == arrow::Type::LARGE_BINARY;
}

bool IsList(const arrow::DataType& type) {
  return type.id() == arrow::Type::LIST || type.id() == arrow::Type::LARGE_LIST;
}

}  // namespace

// Walks a row group row by row, for those too large to hold.
class ParquetFile::Cursor {
 public:
  Cursor(const std::string& name, const std::shared_ptr<parquet::FileMetaData>& metadata, int group,
         const std::vector<int>& leaves)
      : name_(name), group_(group), reader_(OpenReader(name, metadata, group)) {
    batches_ = ValueOrThrow(reader_->GetRecordBatchReader({group}, leaves), name, ErrorCode::kCorruptFile);
  }

  bool CanReach(int group, std::int64_t row) const { return group == group_ && row >= next_; }

  std::shared_ptr<arrow::RecordBatch> Advance(std::int64_t row) {
    std::shared_ptr<arrow::RecordBatch> batch;
    while (next_ <= row) {
      batch = ValueOrThrow(batches_->Next(), name_, ErrorCode::kCorruptFile);
      if (batch == nullptr || batch->num_rows() != 1)
        ThrowCorrupt(name_, "the row group has fewer rows than it claims");
      ++next_;
    }
    return batch;
  }

 private:
  std::string name_;
  int group_;
  std::int64_t next_ = 0;
  std::unique_ptr<parquet::arrow::FileReader> reader_;
  std::unique_ptr<arrow::RecordBatchReader> batches_;
};

ParquetFile::ParquetFile(std::filesystem::path path) : path_(std::move(path)), name_(path_.string()) {
  const FileStamp stamp = StampOf(path_);
  size_ = stamp.size;
  modified_ = stamp.modified;
  CheckMagic(path_);
  WithArrowErrors(name_, ErrorCode::kCorruptFile, [&] {
    const auto reader = OpenReader(name_, nullptr);
    metadata_ = reader->parquet_reader()->metadata();
    CheckStatus(reader->GetSchema(&schema_), name_, ErrorCode::kCorruptFile);
    CheckGroups(*metadata_, name_);
  });
  if (HasTensors()) DetectLayout();
}

ParquetFile::~ParquetFile() = default;

bool ParquetFile::HasTensors() const {
  return schema_->GetFieldIndex("layer_name") >= 0 && schema_->GetFieldIndex("data") >= 0;
}

void ParquetFile::DetectLayout() {
  const auto type_of = [&](const char* name) -> const arrow::DataType* {
    const auto found = schema_->GetAllFieldIndices(name);
    if (found.size() > 1) ThrowCorrupt(name_, std::string("column '") + name + "' occurs twice");
    return found.empty() ? nullptr : schema_->field(found[0])->type().get();
  };
  for (const char* required : {"layer_name", "shape", "dtype", "data", "num_params"}) {
    if (type_of(required) == nullptr) ThrowCorrupt(name_, std::string("column '") + required + "' is missing");
  }
  if (!IsBytes(*type_of("data")))
    ThrowCorrupt(name_, "column 'data' is " + type_of("data")->ToString() + ", not binary");
  if (type_of("quant_type") == nullptr) {
    layout_ = ParquetLayout::kV1;
    return;
  }
  const arrow::DataType* scales = type_of("scales");
  if (scales == nullptr || IsBytes(*scales)) {
    layout_ = ParquetLayout::kV2BasePython;
  } else if (!IsList(*scales)) {
    ThrowCorrupt(name_, "column 'scales' is " + scales->ToString() + ", neither binary nor a list");
  } else if (type_of("is_diffusion_model") == nullptr) {
    layout_ = ParquetLayout::kV2BaseRust;
  } else {
    layout_ = type_of("packing") == nullptr ? ParquetLayout::kV2Extended : ParquetLayout::kArrowQuant;
  }
}

int ParquetFile::row_groups() const { return metadata_->num_row_groups(); }

std::int64_t ParquetFile::rows(int row_group) const { return metadata_->RowGroup(row_group)->num_rows(); }

std::uint64_t ParquetFile::stored_bytes(int row_group) const {
  const auto group = metadata_->RowGroup(row_group);
  std::uint64_t bytes = 0;
  for (int i = 0; i < group->num_columns(); ++i) {
    bytes += static_cast<std::uint64_t>(std::max<std::int64_t>(group->ColumnChunk(i)->total_compressed_size(), 0));
  }
  return std::min(bytes, size_);
}

std::vector<int> ParquetFile::Leaves(bool values) const {
  std::vector<int> leaves;
  for (int i = 0; i < metadata_->schema()->num_columns(); ++i) {
    const std::string column = metadata_->schema()->Column(i)->path()->ToDotVector().front();
    if (values || !HoldsValues(column)) leaves.push_back(i);
  }
  return leaves;
}

std::shared_ptr<arrow::RecordBatch> ParquetFile::ReadGroup(int row_group, bool values) const {
  const auto reader = OpenReader(name_, metadata_, row_group);
  const auto table = ValueOrThrow(reader->ReadRowGroup(row_group, Leaves(values)), name_, ErrorCode::kCorruptFile);
  if (table->num_rows() != rows(row_group)) ThrowCorrupt(name_, "a row group has fewer rows than it claims");
  return ValueOrThrow(table->CombineChunksToBatch(), name_, ErrorCode::kCorruptFile);
}

std::shared_ptr<arrow::RecordBatch> ParquetFile::ReadDescriptions(int row_group) const {
  return WithArrowErrors(name_, ErrorCode::kCorruptFile, [&] { return ReadGroup(row_group, false); });
}

BatchRow ParquetFile::ReadRow(int row_group, std::int64_t row) const {
  const FileStamp stamp = StampOf(path_);
  if (stamp.size != size_ || stamp.modified != modified_) {
    throw Error(ErrorCode::kIo, "the file changed while it was being read",
                {.file = name_, .remedy = "Open the model again."});
  }
  return WithArrowErrors(name_, ErrorCode::kCorruptFile, [&]() -> BatchRow {
    if (rows(row_group) == 1) return {ReadGroup(row_group, true), 0, true};
    const std::lock_guard lock(mutex_);
    if (metadata_->RowGroup(row_group)->total_byte_size() <= kMaxCachedBytes) {
      if (cached_group_ != row_group) {
        cached_ = ReadGroup(row_group, true);
        cached_group_ = row_group;
      }
      return {cached_, row, false};
    }
    if (cursor_ == nullptr || !cursor_->CanReach(row_group, row)) {
      cursor_ = std::make_unique<Cursor>(name_, metadata_, row_group, Leaves(true));
    }
    try {
      return {cursor_->Advance(row), 0, true};
    } catch (...) {
      cursor_.reset();
      throw;
    }
  });
}

}  // namespace arrow_quant
