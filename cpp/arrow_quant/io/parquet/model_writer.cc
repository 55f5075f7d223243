#include "arrow_quant/io/parquet/model_writer.h"

#include <arrow/array.h>
#include <arrow/type.h>
#include <arrow/util/key_value_metadata.h>
#include <parquet/arrow/writer.h>
#include <parquet/properties.h>

#include <set>
#include <utility>
#include <vector>

#include "arrow_quant/base/version.h"
#include "arrow_quant/io/parquet/arrow_status.h"
#include "arrow_quant/io/parquet/atomic_stream.h"
#include "arrow_quant/io/parquet/record_columns.h"
#include "arrow_quant/io/parquet/record_layout.h"

namespace arrow_quant {
namespace {

std::shared_ptr<parquet::WriterProperties> FileProperties(const WriterOptions& options) {
  parquet::WriterProperties::Builder builder;
  builder.compression(parquet::Compression::ZSTD)
      ->compression_level(options.zstd_level)
      ->disable_dictionary()
      ->disable_statistics()
      ->set_size_statistics_level(parquet::SizeStatisticsLevel::None)
      ->enable_page_checksum()
      ->created_by(std::string("arrow-quant version ") + kVersion);
  for (const std::string& path : FloatColumnPaths(options.columns)) {
    builder.encoding(path, parquet::Encoding::BYTE_STREAM_SPLIT);
  }
  return builder.build();
}

std::shared_ptr<parquet::ArrowWriterProperties> ArrowProperties() {
  // The older files name the items of a list "item", as the stored Arrow schema does.
  parquet::ArrowWriterProperties::Builder builder;
  builder.store_schema()->disable_compliant_nested_types()->set_use_threads(false);
  return builder.build();
}

// A record together with the memory that it points to.
class OwnedRecord {
 public:
  explicit OwnedRecord(const TensorRecord& source) : record_(source) {
    bytes_.assign(source.data.begin(), source.data.end());
    record_.data = bytes_;
    for (const auto member : kFloatMembers)
      floats_.insert(floats_.end(), (source.*member).begin(), (source.*member).end());
    std::size_t begin = 0;
    for (const auto member : kFloatMembers) {
      record_.*member = std::span<const float>(floats_).subspan(begin, (source.*member).size());
      begin += (source.*member).size();
    }
  }

  // Moving a vector keeps its elements in place, so the views stay valid.
  const TensorRecord& record() const { return record_; }
  std::uint64_t bytes() const { return bytes_.size() + floats_.size() * sizeof(float); }

  static constexpr std::span<const float> TensorRecord::* kFloatMembers[] = {
      &TensorRecord::scales,      &TensorRecord::zero_points,      &TensorRecord::residual_scales,
      &TensorRecord::time_scales, &TensorRecord::time_zero_points, &TensorRecord::time_gamma,
      &TensorRecord::time_beta,   &TensorRecord::time_gains,       &TensorRecord::equalization_scales,
      &TensorRecord::shift};

 private:
  TensorRecord record_;
  std::vector<std::uint8_t> bytes_;
  std::vector<float> floats_;
};

std::uint64_t ByteSize(const TensorRecord& record) {
  std::uint64_t bytes = record.data.size();
  for (const auto member : OwnedRecord::kFloatMembers) bytes += (record.*member).size_bytes();
  return bytes;
}

void CheckCellSizes(const TensorRecord& record, const std::string& file) {
  std::uint64_t largest = record.data.size();
  for (const auto member : OwnedRecord::kFloatMembers) largest = std::max(largest, (record.*member).size_bytes());
  if (largest > kMaxCellBytes) {
    ThrowTensorError(
        file, record.layer_name,
        "a cell of " + std::to_string(largest) + " bytes exceeds the limit of " + std::to_string(kMaxCellBytes),
        ErrorCode::kInvalidArgument, "Write the tensor in several parts of fewer rows.");
  }
}

}  // namespace

class ParquetModelWriter::Impl {
 public:
  Impl(std::filesystem::path path, WriterOptions options)
      : options_(std::move(options)),
        file_(std::move(path), options_.durability),
        name_(file_.target().string()),
        stream_(std::make_shared<AtomicFileStream>(&file_)) {
    Guard([&] {
      writer_ =
          ValueOrThrow(parquet::arrow::FileWriter::Open(*RecordSchema(options_.columns), arrow::default_memory_pool(),
                                                        stream_, FileProperties(options_), ArrowProperties()),
                       name_, ErrorCode::kIo);
      if (!options_.key_value_metadata.empty()) {
        const auto metadata = std::make_shared<arrow::KeyValueMetadata>();
        for (const auto& [key, value] : options_.key_value_metadata) metadata->Append(key, value);
        CheckStatus(writer_->AddKeyValueMetadata(metadata), name_, ErrorCode::kIo);
      }
    });
  }

  void Append(const TensorRecord& source) {
    if (!usable_)
      throw Error(ErrorCode::kInvalidArgument, "the writer is closed or has failed",
                  {.file = name_, .tensor = source.layer_name});
    TensorRecord record = source;
    if (options_.columns == RecordColumns::kFull) Check(&record);
    CheckCellSizes(record, name_);
    if (!written_.emplace(record.component, record.layer_name, record.row_begin).second) {
      ThrowTensorError(name_, record.layer_name, "the tensor is written twice", ErrorCode::kInvalidArgument);
    }
    if (ByteSize(record) >= options_.small_record_bytes) {
      WriteRowGroup(std::span(&record, 1));
      return;
    }
    pending_.emplace_back(record);
    pending_bytes_ += pending_.back().bytes();
    if (pending_bytes_ >= options_.row_group_bytes) WritePending();
  }

  WrittenFile Close() {
    if (!usable_) throw Error(ErrorCode::kInvalidArgument, "the writer is closed or has failed", {.file = name_});
    WritePending();
    Guard([&] { CheckStatus(writer_->Close(), name_, ErrorCode::kIo); });
    usable_ = false;
    file_.Commit();
    return {file_.target(), file_.bytes(), file_.checksum(), written_.size()};
  }

 private:
  void Check(TensorRecord* record) const {
    const RowLayout layout = CheckFields(*record, name_);
    if (record->row_begin == 0 && record->row_count == 0) record->row_count = layout.rows;
    CheckCells(*record, layout, name_);
  }

  void WritePending() {
    if (pending_.empty()) return;
    std::vector<TensorRecord> records;
    for (const OwnedRecord& owned : pending_) records.push_back(owned.record());
    WriteRowGroup(records);
    pending_.clear();
    pending_bytes_ = 0;
  }

  void WriteRowGroup(std::span<const TensorRecord> records) {
    Guard([&] {
      CheckStatus(writer_->NewRowGroup(), name_, ErrorCode::kIo);
      for (const std::shared_ptr<arrow::Array>& array : RecordArrays(records, options_.columns)) {
        CheckStatus(writer_->WriteColumnChunk(*array), name_, ErrorCode::kIo);
      }
    });
  }

  // A failure of the disk hides behind Arrow's own message; the kept one names it.
  template <typename Body>
  void Guard(Body&& body) {
    try {
      WithArrowErrors(name_, ErrorCode::kIo, body);
    } catch (...) {
      usable_ = false;
      stream_->RethrowFailure();
      throw;
    }
  }

  WriterOptions options_;
  AtomicFile file_;
  std::string name_;
  std::shared_ptr<AtomicFileStream> stream_;
  std::unique_ptr<parquet::arrow::FileWriter> writer_;
  std::vector<OwnedRecord> pending_;
  std::uint64_t pending_bytes_ = 0;
  std::set<std::tuple<std::string, std::string, std::uint64_t>> written_;
  bool usable_ = true;
};

ParquetModelWriter::ParquetModelWriter(std::filesystem::path path, WriterOptions options) {
  if (options.zstd_level < 1 || options.zstd_level > 22) {
    throw Error(ErrorCode::kInvalidArgument,
                "zstd_level is " + std::to_string(options.zstd_level) + ", not in [1, 22]");
  }
  impl_ = std::make_unique<Impl>(std::move(path), std::move(options));
}

ParquetModelWriter::~ParquetModelWriter() = default;

void ParquetModelWriter::Append(const TensorRecord& record) { impl_->Append(record); }

WrittenFile ParquetModelWriter::Close() { return impl_->Close(); }

}  // namespace arrow_quant
