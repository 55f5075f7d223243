#pragma once

#include <cstddef>

namespace arrow_quant {

// Keeps the process alive when pages of a mapped file cannot be read: the file was cut, or the disk failed. The system
// sends SIGBUS then; a guard answers by putting zeros in the place of the mapping from that page to its end, and says
// so in failed(). Whoever has read from the mapping asks before using what was read. A SIGBUS elsewhere goes where it
// went before. The approach is that of systemd's sigbus.c.
class MappingGuard {
 public:
  // For the pages of [begin, begin + size), which mmap() gave. Of more than 4096 mappings at a time the rest is not
  // guarded.
  MappingGuard(const void* begin, std::size_t size) noexcept;
  // Before munmap().
  ~MappingGuard();
  MappingGuard(const MappingGuard&) = delete;
  MappingGuard& operator=(const MappingGuard&) = delete;

  bool failed() const noexcept;

 private:
  int slot_ = -1;
};

}  // namespace arrow_quant
