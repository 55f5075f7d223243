#pragma once

// One Parquet file opened for reading. Includes Arrow: only the .cc files of io/parquet include this.

#include <arrow/type_fwd.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/io/parquet/model_reader.h"

namespace parquet {
class FileMetaData;
}

namespace arrow_quant {

// A row in a batch that holds it.
struct BatchRow {
  std::shared_ptr<arrow::RecordBatch> batch;
  std::int64_t row = 0;
  bool alone = false;  // the batch holds nothing else
};

// Rows of one file, read on demand. The footer is parsed once, the file is opened for each read, so that a model of
// thousands of files needs few descriptors. Thread-safe.
class ParquetFile {
 public:
  // Throws Error kIo or kCorruptFile.
  explicit ParquetFile(std::filesystem::path path);
  ~ParquetFile();

  const std::filesystem::path& path() const { return path_; }

  // False for a Parquet file without the columns layer_name and data.
  bool HasTensors() const;
  // Throws Error kCorruptFile when a required column is missing or has another type than every layout.
  ParquetLayout layout() const { return layout_; }

  int row_groups() const;
  std::int64_t rows(int row_group) const;
  // Bytes on disk of a row group.
  std::uint64_t stored_bytes(int row_group) const;

  // Every column but those that hold values.
  std::shared_ptr<arrow::RecordBatch> ReadDescriptions(int row_group) const;
  // Every column of one row.
  BatchRow ReadRow(int row_group, std::int64_t row) const;

 private:
  class Cursor;

  void DetectLayout();
  std::shared_ptr<arrow::RecordBatch> ReadGroup(int row_group, bool values) const;
  std::vector<int> Leaves(bool values) const;

  std::filesystem::path path_;
  std::string name_;
  std::uint64_t size_ = 0;
  std::int64_t modified_ = 0;
  std::shared_ptr<parquet::FileMetaData> metadata_;
  std::shared_ptr<arrow::Schema> schema_;
  ParquetLayout layout_ = ParquetLayout::kV1;

  // The last row group that several tensors share, or the place in one too large to hold.
  mutable std::mutex mutex_;
  mutable int cached_group_ = -1;
  mutable std::shared_ptr<arrow::RecordBatch> cached_;
  mutable std::unique_ptr<Cursor> cursor_;
};

}  // namespace arrow_quant
