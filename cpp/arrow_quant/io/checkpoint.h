#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "arrow_quant/io/safetensors/safetensors_file.h"

namespace arrow_quant {

struct CheckpointFile {
  std::filesystem::path path;
  std::uint64_t size = 0;  // bytes
  std::int64_t mtime_ns = 0;
};

// The tensors of one checkpoint: a file, or the shards of an index. Opening reads headers only. Two names with equal
// bytes (tied weights) are two tensors.
class Checkpoint {
 public:
  // One .safetensors file. Throws kUnsupported for a pickle or GGUF file and for one shard of several, and what
  // SafetensorsFile throws.
  static Checkpoint OpenFile(const std::filesystem::path& path);

  // A sharded checkpoint by its index. The index and its shards must agree in both directions: throws kCorruptFile
  // naming the shard that is missing, the tensor that its shard lacks, the tensor that the index lacks, or the tensor
  // that is in two shards; and for an index that is not one, or that names files outside of its directory.
  static Checkpoint OpenIndex(const std::filesystem::path& path);

  // The one checkpoint of a directory, by the rules of ChooseCheckpoint.
  static Checkpoint OpenDirectory(const std::filesystem::path& directory,
                                  const std::optional<std::string>& variant = std::nullopt);

  // By file, then by offset.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  // Nothing when there is no such tensor. Valid as long as this.
  const TensorInfo* Find(std::string_view name) const;

  // Bytes of one of tensors(), a view into the mapped file: little-endian, C order, not necessarily aligned.
  std::span<const std::byte> Data(const TensorInfo& info) const;
  // Lets the kernel read ahead through the tensor's bytes.
  void Prefetch(const TensorInfo& info) const noexcept;
  // Gives the memory of the tensor's pages back. Data(info) stays valid and reads from disk again.
  void Release(const TensorInfo& info) const noexcept;

  const std::vector<CheckpointFile>& files() const { return files_; }
  // The index that chose the shards; empty without one.
  const std::filesystem::path& index_path() const { return index_path_; }
  // __metadata__ of the files and the strings of the index's "metadata"; of equal keys the first file's value counts.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // Bytes of all tensors.
  std::int64_t total_bytes() const { return total_bytes_; }

  // The header of one file: with the sizes and times in files() it identifies the source without reading its data.
  std::span<const std::byte> HeaderBytes(int file_index) const;
  // 64-bit FNV-1a hash of file names, sizes, modification times and headers. Moving the directory does not change it.
  std::uint64_t Fingerprint() const;
  // Files whose content may differ from what was opened.
  std::vector<std::filesystem::path> ChangedFiles() const;
  // Throws Error kIo for a file that has changed, or that could not be read everywhere: Data() has given zeros then.
  void RefuseChanged() const;

 private:
  Checkpoint() = default;
  void AddFile(const std::filesystem::path& path);
  void AddTensor(const TensorInfo& info, int file_index);

  std::filesystem::path index_path_;
  std::vector<SafetensorsFile> opened_;
  std::vector<CheckpointFile> files_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, std::size_t> by_name_;
  std::map<std::string, std::string> metadata_;
  std::int64_t total_bytes_ = 0;
};

}  // namespace arrow_quant
