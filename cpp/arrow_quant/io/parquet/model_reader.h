#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/io/parquet/tensor_record.h"

namespace arrow_quant {

// Which of the layouts a file has. They share names but neither types nor the meaning of `data` and `scales`.
enum class ParquetLayout {
  kV1,            // raw values, no quant_type
  kV2BasePython,  // signed codes, scales as bytes
  kV2BaseRust,    // unsigned codes, scales as a list
  kV2Extended,    // the older one, one byte per weight
  kArrowQuant,    // V2 Extended as ParquetModelWriter writes it
};

// "v1", "v2_base_python", "v2_base_rust", "v2_extended", "arrow_quant".
std::string_view ParquetLayoutName(ParquetLayout layout);

// A tensor as its row describes it, without its values.
struct TensorEntry {
  // All ranges are empty. layer_name is the key; row_begin is 0 and row_count all rows of a kArrowQuant tensor. In the
  // older layouts a quant_axis of -1 and a group_size of 0 are read as absent, and `bits` comes from quant_type.
  TensorRecord record;
  ParquetLayout layout = ParquetLayout::kArrowQuant;
  std::filesystem::path file;  // of the first part
  int parts = 1;
  std::uint64_t stored_bytes = 0;  // on disk, footer excluded; the share by size where tensors share a row group
};

// A tensor with its values. Copies share the memory.
struct LoadedTensor {
  TensorRecord record;  // as in TensorEntry, with the ranges filled
  ParquetLayout layout = ParquetLayout::kArrowQuant;
  std::filesystem::path file;
  std::shared_ptr<const void> owner;  // keeps what the ranges point to alive
};

// All tensors of one Parquet file or of a directory of them, in any of the layouts. Thread-safe after Open.
class ParquetModel {
 public:
  // Reads footers and the small columns of every *.parquet in `path`, or of the one file. In a directory, files without
  // the columns layer_name and data (calibration data, statistics) are left out, as are hidden ones; subdirectories are
  // not entered. Throws Error kModelNotFound when there is none, kIo, kCorruptFile, kShapeMismatch, kUnsupported.
  static ParquetModel Open(const std::filesystem::path& path);

  ParquetModel(ParquetModel&&) noexcept;
  ParquetModel& operator=(ParquetModel&&) noexcept;
  ~ParquetModel();

  // In the order of files (by name) and rows; loading in this order is the fastest.
  const std::vector<TensorEntry>& tensors() const;

  // Files of the directory that hold no tensors.
  const std::vector<std::filesystem::path>& ignored_files() const;

  // Index into tensors() of a name; `component` may stay empty when the name occurs once. Throws Error
  // kInvalidArgument for a name that is absent or ambiguous.
  std::size_t Find(std::string_view name, std::string_view component = {}) const;

  // Read one tensor, the parts joined. A tensor alone in its row group is handed over without a copy. Throws Error kIo,
  // kCorruptFile, kShapeMismatch, kUnsupported, kResource; kIo also when the file changed since Open.
  LoadedTensor Load(std::size_t index) const;
  LoadedTensor Load(std::string_view name, std::string_view component = {}) const {
    return Load(Find(name, component));
  }

 private:
  struct State;
  explicit ParquetModel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace arrow_quant
