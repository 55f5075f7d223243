#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "arrow_quant/io/mapping_guard.h"

namespace arrow_quant {

// What identifies the content of a file without reading it.
struct FileStamp {
  std::uint64_t size = 0;     // bytes
  std::int64_t mtime_ns = 0;  // since the epoch
  std::uint64_t inode = 0;
  std::uint64_t device = 0;

  bool operator==(const FileStamp&) const = default;
};

// A regular file mapped read-only. Symbolic links are followed. Opening reads no content; pages come in as they are
// touched.
class MmapFile {
 public:
  // Throws kModelNotFound for a missing file or a dangling link (naming its target), kCorruptFile for an empty file,
  // and kIo for a directory, a device, a refused permission or a failed mapping.
  explicit MmapFile(const std::filesystem::path& path);
  ~MmapFile();
  MmapFile(MmapFile&& other) noexcept;
  MmapFile& operator=(MmapFile&& other) noexcept;
  MmapFile(const MmapFile&) = delete;
  MmapFile& operator=(const MmapFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, static_cast<std::size_t>(stamp_.size)}; }
  const FileStamp& stamp() const { return stamp_; }

  // Tells the kernel that bytes [offset, offset + length) are read front to back, so that it reads ahead.
  void AdviseSequential(std::uint64_t offset, std::uint64_t length) const noexcept;

  // Drops the resident pages of bytes [offset, offset + length). They may be read again afterwards, from the file.
  void Release(std::uint64_t offset, std::uint64_t length) const noexcept;

  // True when the path now names other content: replaced, resized, rewritten or removed.
  bool ChangedSinceOpen() const noexcept;
  // True when pages could not be read, because the file was cut or the disk failed; they were given out as zeros.
  bool ReadFailed() const noexcept { return guard_ != nullptr && guard_->failed(); }

 private:
  void Advise(std::uint64_t offset, std::uint64_t length, int advice) const noexcept;

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  FileStamp stamp_;
  std::unique_ptr<MappingGuard> guard_;
};

}  // namespace arrow_quant
