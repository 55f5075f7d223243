#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "arrow_quant/io/checksum.h"

namespace arrow_quant {

// Throw Error kIo for a failed system call: the message says what `action` met ("cannot write: no space left on the
// device"), the remedy what to do about a full disk, missing rights and the like.
[[noreturn]] void ThrowErrno(int errno_value, std::string_view action, const std::filesystem::path& path);

// Whether a finished file is forced to the disk before it becomes visible.
enum class Durability { kSync, kNoSync };

// A file that appears under its name only when it is complete.
//
// The bytes go to ".<name>.tmp-<pid>-<n>" beside the target; Commit() makes them durable and renames. Without Commit()
// the destructor removes the temporary file. A lock on the temporary file tells a running writer from a killed one.
class AtomicFile {
 public:
  // Throws Error kIo when the temporary file cannot be made.
  explicit AtomicFile(std::filesystem::path target, Durability durability = Durability::kSync);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Throws Error kIo naming the target.
  void Append(const void* data, std::size_t size);

  // Replace the target. Throws Error kIo; the target is then what it was before.
  void Commit();

  const std::filesystem::path& target() const { return target_; }
  std::uint64_t bytes() const { return bytes_; }
  // Of all bytes so far, computed as they pass.
  std::string checksum() const { return FormatChecksum(hash_.Digest()); }

 private:
  void Discard() noexcept;

  std::filesystem::path target_;
  std::filesystem::path temporary_;
  Durability durability_;
  int fd_ = -1;
  std::uint64_t bytes_ = 0;
  Xxh64 hash_;
};

// Write a small file as a whole. Throws Error kIo.
void WriteFileAtomically(const std::filesystem::path& path, std::string_view content,
                         Durability durability = Durability::kSync);

// Copy a file; links are followed. Throws Error kIo.
void CopyFileAtomically(const std::filesystem::path& from, const std::filesystem::path& to,
                        Durability durability = Durability::kSync);

// Remove temporary files in `directory` whose writer is gone; those of running writers stay. Returns how many.
int RemoveStaleTemporaries(const std::filesystem::path& directory);

// Whether `name` is that of a temporary file of AtomicFile.
bool IsTemporaryName(std::string_view name);

// Call body(data, size) for consecutive pieces of a file. Throws Error kIo.
void ForEachBlock(const std::filesystem::path& path, const std::function<void(const void*, std::size_t)>& body);

// Content of a file of at most `max_bytes`. Throws Error kIo, kCorruptFile when it is longer.
std::string ReadSmallFile(const std::filesystem::path& path, std::size_t max_bytes);

}  // namespace arrow_quant
