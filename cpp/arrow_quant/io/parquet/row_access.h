#pragma once

// Typed access to the cells of one row, whatever width a writer chose. Includes Arrow: only the .cc files of io/parquet
// include this.

#include <arrow/type_fwd.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/io/parquet/parquet_file.h"

namespace arrow_quant {

// Cells of a row by column name. A missing column and a null cell are both absent. Throws Error kCorruptFile naming the
// file, the column and its type where a type is not one of those that the layouts use.
class RowAccess {
 public:
  RowAccess(const BatchRow& row, std::string file) : row_(row), file_(std::move(file)) {}

  std::optional<std::string> Text(const char* column) const;      // string, large_string; valid UTF-8
  std::optional<std::int64_t> Integer(const char* column) const;  // int32, int64, uint32, uint64
  std::optional<bool> Boolean(const char* column) const;
  std::optional<std::vector<std::uint64_t>> Sizes(const char* column) const;  // list of integers, none negative
  // binary, large_binary; views the batch.
  std::optional<std::span<const std::uint8_t>> Bytes(const char* column) const;
  // list or large_list of float32; views the batch.
  std::optional<std::span<const float>> Floats(const char* column) const;
  std::optional<std::vector<double>> Doubles(const char* column) const;  // list or large_list of float64

  // The absent is an error.
  std::string RequiredText(const char* column) const;
  std::uint64_t RequiredSize(const char* column) const;
  std::vector<std::uint64_t> RequiredSizes(const char* column) const;

  const std::string& file() const { return file_; }

 private:
  std::shared_ptr<arrow::Array> Cell(const char* column) const;
  std::shared_ptr<arrow::Array> ListItems(const char* column) const;
  [[noreturn]] void ThrowType(const char* column, const arrow::Array& array) const;
  [[noreturn]] void ThrowColumn(const char* column, const std::string& what) const;

  BatchRow row_;
  std::string file_;
};

}  // namespace arrow_quant
