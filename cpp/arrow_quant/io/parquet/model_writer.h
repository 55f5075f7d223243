#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "arrow_quant/io/atomic_file.h"
#include "arrow_quant/io/parquet/tensor_record.h"

namespace arrow_quant {

// Which columns a file has: all of ours, or exactly those of the older V2 Extended without or with its spatial JSON.
enum class RecordColumns { kFull, kOldPlain, kOldSpatial };

struct WriterOptions {
  int zstd_level = 1;
  std::map<std::string, std::string> key_value_metadata = {};  // of the file's footer
  RecordColumns columns = RecordColumns::kFull;
  Durability durability = Durability::kSync;
  // A row group costs about 3.7 kB whatever it holds, so tensors below the first limit share row groups of about
  // the second; 0 gives every tensor its own.
  std::uint64_t small_record_bytes = std::uint64_t{512} << 10;
  std::uint64_t row_group_bytes = std::uint64_t{2} << 20;
};

// What Close() leaves behind.
struct WrittenFile {
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::string checksum;  // "xxh64:..."
  std::uint64_t records = 0;
};

// Writes one Parquet V2 Extended file, row by row. The file appears under its name on Close(); a writer that is
// destroyed before leaves nothing. The same records and options give the same bytes. Not for concurrent use; no thread
// is started.
class ParquetModelWriter {
 public:
  // Throws Error kIo when the file cannot be made, kInvalidArgument for a ZSTD level outside [1, 22].
  explicit ParquetModelWriter(std::filesystem::path path, WriterOptions options = {});
  ~ParquetModelWriter();
  ParquetModelWriter(const ParquetModelWriter&) = delete;
  ParquetModelWriter& operator=(const ParquetModelWriter&) = delete;

  // Write one row. The record's ranges are needed only during the call. Throws Error kShapeMismatch, kCorruptFile or
  // kInvalidArgument for a record that breaks the layout (checked only for the full set of columns), kInvalidArgument
  // for a cell above kMaxCellBytes or a row written twice, kIo when the disk fails. The writer is unusable after kIo.
  void Append(const TensorRecord& record);

  // Write the footer, force the file to the disk and give it its name. Throws Error kIo.
  WrittenFile Close();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace arrow_quant
