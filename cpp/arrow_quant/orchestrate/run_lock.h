#pragma once

#include <filesystem>

namespace arrow_quant {

// Keeps a directory to one run at a time, of this process or another, by a lock on the file `lock` in it. The kernel
// drops the lock with its process, however that ends, so the file of a dead one stops nobody. The file holds the
// process id and the host for the sentence that the second run gets.
class RunLock {
 public:
  // Makes the directory. Throws Error kInvalidArgument naming the run that has it, kIo.
  explicit RunLock(const std::filesystem::path& directory);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  // False where the file system knows no locks: a second run is then not noticed.
  bool held() const { return held_; }
  // Ends the lock and removes its file, and the directory if that was all in it.
  void Release() noexcept;

 private:
  bool TryLock();
  void Unlock() noexcept;

  std::filesystem::path directory_;
  std::filesystem::path path_;
  int fd_ = -1;
  bool held_ = false;
};

}  // namespace arrow_quant
