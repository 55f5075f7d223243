#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/io/parquet/model_writer.h"

namespace arrow_quant {

// Named float32 arrays, those of one record together.
using ArrayRecord = std::vector<std::pair<std::string, AlignedVector<float>>>;

// Writes records of named arrays and one JSON text to a Parquet file: one row group per record, columns `name` (string)
// and `values` (list of float32, BYTE_STREAM_SPLIT and ZSTD). A large array is split over rows of the same name.
class ArrayFileWriter {
 public:
  // Throws Error kIo.
  explicit ArrayFileWriter(std::filesystem::path path);
  ~ArrayFileWriter();

  // Throws Error kIo; records are numbered from 0 in the order in which they come.
  void Append(const ArrayRecord& record);
  // Stores the text and makes the file appear. Throws Error kIo.
  WrittenFile Close(std::string_view json);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Reads what ArrayFileWriter wrote, one record at a time. Thread-safe.
class ArrayFileReader {
 public:
  // Throws Error kIo, kModelNotFound, kCorruptFile.
  explicit ArrayFileReader(std::filesystem::path path);
  ~ArrayFileReader();

  const std::string& json() const;
  int size() const;
  // Throws Error kCorruptFile.
  ArrayRecord Read(int record) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace arrow_quant
