#include "arrow_quant/io/parquet/array_file.h"

#include <arrow/array.h>
#include <arrow/builder.h>
#include <arrow/io/file.h>
#include <arrow/table.h>
#include <arrow/type.h>
#include <arrow/util/key_value_metadata.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/writer.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>
#include <parquet/properties.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "arrow_quant/base/version.h"
#include "arrow_quant/io/parquet/arrow_status.h"
#include "arrow_quant/io/parquet/atomic_stream.h"

namespace arrow_quant {
namespace {

// Bounds the pages, and with them the memory of writing and reading.
constexpr std::size_t kPartFloats = std::size_t{1} << 24;
constexpr char kJsonKey[] = "arrow_quant.arrays";

std::shared_ptr<arrow::Schema> Schema() {
  return arrow::schema({arrow::field("name", arrow::utf8(), false),
                        arrow::field("values", arrow::list(arrow::field("item", arrow::float32(), false)), false)});
}

std::shared_ptr<parquet::WriterProperties> FileProperties() {
  parquet::WriterProperties::Builder builder;
  builder.compression(parquet::Compression::ZSTD)
      ->compression_level(1)
      ->disable_dictionary()
      ->disable_statistics()
      ->set_size_statistics_level(parquet::SizeStatisticsLevel::None)
      ->enable_page_checksum()
      ->encoding("values.list.item", parquet::Encoding::BYTE_STREAM_SPLIT)
      ->created_by(std::string("arrow-quant version ") + kVersion);
  return builder.build();
}

std::shared_ptr<parquet::ArrowWriterProperties> ArrowProperties() {
  parquet::ArrowWriterProperties::Builder builder;
  builder.store_schema()->disable_compliant_nested_types()->set_use_threads(false);
  return builder.build();
}

// The rows of one record.
struct RecordBuilder {
  arrow::StringBuilder names;
  std::shared_ptr<arrow::FloatBuilder> floats = std::make_shared<arrow::FloatBuilder>();
  arrow::ListBuilder lists{arrow::default_memory_pool(), floats,
                           arrow::list(arrow::field("item", arrow::float32(), false))};

  arrow::Status Append(const std::string& name, std::span<const float> values) {
    std::size_t begin = 0;
    do {
      const std::size_t count = std::min(kPartFloats, values.size() - begin);
      ARROW_RETURN_NOT_OK(names.Append(name));
      ARROW_RETURN_NOT_OK(lists.Append());
      // An array without values may have no address, which the builder must not see.
      if (count > 0) {
        ARROW_RETURN_NOT_OK(floats->AppendValues(values.data() + begin, static_cast<std::int64_t>(count)));
      }
      begin += count;
    } while (begin < values.size());
    return arrow::Status::OK();
  }
};

[[noreturn]] void ThrowCorrupt(const std::string& file, const std::string& what) {
  throw Error(ErrorCode::kCorruptFile, what,
              {.file = file, .remedy = "Make the file again with arrow-quant calibrate."});
}

}  // namespace

class ArrayFileWriter::Impl {
 public:
  explicit Impl(std::filesystem::path path)
      : file_(std::move(path)), name_(file_.target().string()), stream_(std::make_shared<AtomicFileStream>(&file_)) {
    Guard([&] {
      writer_ = ValueOrThrow(parquet::arrow::FileWriter::Open(*Schema(), arrow::default_memory_pool(), stream_,
                                                              FileProperties(), ArrowProperties()),
                             name_, ErrorCode::kIo);
    });
  }

  void Append(const ArrayRecord& record) {
    Guard([&] {
      CheckStatus(writer_->NewRowGroup(), name_, ErrorCode::kIo);
      RecordBuilder builder;
      for (const auto& [name, values] : record) CheckStatus(builder.Append(name, values), name_, ErrorCode::kIo);
      Write(builder.names);
      Write(builder.lists);
      ++records_;
    });
  }

  WrittenFile Close(std::string_view json) {
    Guard([&] {
      const auto metadata = std::make_shared<arrow::KeyValueMetadata>();
      metadata->Append(kJsonKey, std::string(json));
      CheckStatus(writer_->AddKeyValueMetadata(metadata), name_, ErrorCode::kIo);
      CheckStatus(writer_->Close(), name_, ErrorCode::kIo);
    });
    file_.Commit();
    return {file_.target(), file_.bytes(), file_.checksum(), records_};
  }

 private:
  void Write(arrow::ArrayBuilder& builder) {
    const auto array = ValueOrThrow(builder.Finish(), name_, ErrorCode::kIo);
    CheckStatus(writer_->WriteColumnChunk(*array), name_, ErrorCode::kIo);
  }

  template <typename Body>
  void Guard(Body&& body) {
    try {
      WithArrowErrors(name_, ErrorCode::kIo, body);
    } catch (...) {
      stream_->RethrowFailure();
      throw;
    }
  }

  AtomicFile file_;
  std::string name_;
  std::shared_ptr<AtomicFileStream> stream_;
  std::unique_ptr<parquet::arrow::FileWriter> writer_;
  std::size_t records_ = 0;
};

ArrayFileWriter::ArrayFileWriter(std::filesystem::path path) : impl_(std::make_unique<Impl>(std::move(path))) {}
ArrayFileWriter::~ArrayFileWriter() = default;
void ArrayFileWriter::Append(const ArrayRecord& record) { impl_->Append(record); }
WrittenFile ArrayFileWriter::Close(std::string_view json) { return impl_->Close(json); }

class ArrayFileReader::Impl {
 public:
  explicit Impl(const std::filesystem::path& path) : name_(path.string()) {
    std::error_code error;
    if (!std::filesystem::exists(path, error)) {
      throw Error(ErrorCode::kModelNotFound, "no such file",
                  {.file = name_, .remedy = "Make it with arrow-quant calibrate, or leave calibration at auto."});
    }
    WithArrowErrors(name_, ErrorCode::kCorruptFile, [&] {
      metadata_ = Open()->parquet_reader()->metadata();
      const auto& keys = metadata_->key_value_metadata();
      const int at = keys == nullptr ? -1 : keys->FindKey(kJsonKey);
      if (at < 0) ThrowCorrupt(name_, "this Parquet file holds no activation statistics");
      json_ = keys->value(at);
    });
  }

  const std::string& json() const { return json_; }
  int size() const { return metadata_->num_row_groups(); }

  ArrayRecord Read(int record) const {
    if (record < 0 || record >= size()) ThrowCorrupt(name_, "there is no record " + std::to_string(record));
    return WithArrowErrors(name_, ErrorCode::kCorruptFile, [&] {
      const auto table = ValueOrThrow(Open()->ReadRowGroup(record), name_, ErrorCode::kCorruptFile);
      const auto batch = ValueOrThrow(table->CombineChunksToBatch(), name_, ErrorCode::kCorruptFile);
      return Collect(*batch);
    });
  }

 private:
  std::unique_ptr<parquet::arrow::FileReader> Open() const {
    auto source = ValueOrThrow(arrow::io::ReadableFile::Open(name_), name_, ErrorCode::kIo);
    parquet::ReaderProperties properties;
    properties.set_page_checksum_verification(true);
    auto reader = parquet::ParquetFileReader::Open(std::move(source), properties, metadata_);
    parquet::ArrowReaderProperties arrow_properties;
    arrow_properties.set_use_threads(false);
    arrow_properties.set_pre_buffer(false);
    return ValueOrThrow(
        parquet::arrow::FileReader::Make(arrow::default_memory_pool(), std::move(reader), arrow_properties), name_,
        ErrorCode::kCorruptFile);
  }

  ArrayRecord Collect(const arrow::RecordBatch& batch) const {
    const auto names = std::dynamic_pointer_cast<arrow::StringArray>(batch.GetColumnByName("name"));
    const auto lists = std::dynamic_pointer_cast<arrow::ListArray>(batch.GetColumnByName("values"));
    const auto items = lists == nullptr ? nullptr : std::dynamic_pointer_cast<arrow::FloatArray>(lists->values());
    if (names == nullptr || items == nullptr || items->null_count() > 0 || names->null_count() > 0) {
      ThrowCorrupt(name_, "the columns are not `name` (string) and `values` (list of float32)");
    }
    ArrayRecord record;
    for (std::int64_t r = 0; r < batch.num_rows(); ++r) {
      const std::string name = names->GetString(r);
      if (record.empty() || record.back().first != name) record.emplace_back(name, AlignedVector<float>());
      AlignedVector<float>& values = record.back().second;
      const float* begin = items->raw_values() + lists->value_offset(r);
      values.insert(values.end(), begin, begin + lists->value_length(r));
    }
    return record;
  }

  std::string name_;
  std::string json_;
  std::shared_ptr<parquet::FileMetaData> metadata_;
};

ArrayFileReader::ArrayFileReader(std::filesystem::path path) : impl_(std::make_unique<Impl>(path)) {}
ArrayFileReader::~ArrayFileReader() = default;
const std::string& ArrayFileReader::json() const { return impl_->json(); }
int ArrayFileReader::size() const { return impl_->size(); }
ArrayRecord ArrayFileReader::Read(int record) const { return impl_->Read(record); }

}  // namespace arrow_quant
