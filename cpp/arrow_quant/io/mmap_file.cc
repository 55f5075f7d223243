#include "arrow_quant/io/mmap_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

FileStamp StampOf(const struct stat& status) {
  constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;
  return {.size = static_cast<std::uint64_t>(status.st_size),
          .mtime_ns = status.st_mtim.tv_sec * kNanosecondsPerSecond + status.st_mtim.tv_nsec,
          .inode = static_cast<std::uint64_t>(status.st_ino),
          .device = static_cast<std::uint64_t>(status.st_dev)};
}

[[noreturn]] void ThrowOpenError(const std::filesystem::path& path, int error) {
  std::error_code ignored;
  if (error == ENOENT && std::filesystem::is_symlink(std::filesystem::symlink_status(path, ignored))) {
    const std::string target = std::filesystem::read_symlink(path, ignored).string();
    throw Error(ErrorCode::kModelNotFound, "the symbolic link points to '" + target + "', which does not exist",
                {.file = path.string(), .remedy = "Download the model again, or repair the link."});
  }
  if (error == ENOENT) {
    throw Error(ErrorCode::kModelNotFound, "no such file", {.file = path.string(), .remedy = "Check the path."});
  }
  const std::string remedy = error == EACCES ? "Give yourself read permission for this file." : "";
  throw Error(ErrorCode::kIo, "cannot be opened: " + std::generic_category().message(error),
              {.file = path.string(), .remedy = remedy});
}

// Closes the descriptor on every way out of the constructor; the mapping outlives it.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

void CheckIsMappable(const std::filesystem::path& path, const struct stat& status) {
  if (S_ISDIR(status.st_mode)) {
    throw Error(ErrorCode::kIo, "is a directory where a file is expected",
                {.file = path.string(), .remedy = "Give the path of a file."});
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::kIo, "is not a regular file",
                {.file = path.string(), .remedy = "Give the path of a file on disk."});
  }
  if (status.st_size == 0) {
    throw Error(ErrorCode::kCorruptFile, "the file is empty",
                {.file = path.string(), .remedy = "Download the file again."});
  }
}

}  // namespace

MmapFile::MmapFile(const std::filesystem::path& path) : path_(path) {
  // Without O_NONBLOCK, opening a named pipe would wait for a writer.
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) ThrowOpenError(path, errno);
  struct stat status{};
  if (fstat(file.fd, &status) != 0) ThrowOpenError(path, errno);
  CheckIsMappable(path, status);
  stamp_ = StampOf(status);
  void* mapped = mmap(nullptr, static_cast<std::size_t>(stamp_.size), PROT_READ, MAP_SHARED, file.fd, 0);
  if (mapped == MAP_FAILED) {
    throw Error(ErrorCode::kIo, "cannot be mapped into memory: " + std::generic_category().message(errno),
                {.file = path.string()});
  }
  data_ = static_cast<const std::byte*>(mapped);
  guard_ = std::make_unique<MappingGuard>(mapped, static_cast<std::size_t>(stamp_.size));
}

MmapFile::~MmapFile() {
  guard_.reset();
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), static_cast<std::size_t>(stamp_.size));
}

MmapFile::MmapFile(MmapFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      stamp_(std::exchange(other.stamp_, {})),
      guard_(std::move(other.guard_)) {}

MmapFile& MmapFile::operator=(MmapFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(stamp_, other.stamp_);
  std::swap(guard_, other.guard_);
  return *this;
}

void MmapFile::Advise(std::uint64_t offset, std::uint64_t length, int advice) const noexcept {
  if (offset >= stamp_.size || length == 0) return;
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t begin = offset / page * page;
  const std::uint64_t end = offset + std::min(length, stamp_.size - offset);
  madvise(const_cast<std::byte*>(data_) + begin, static_cast<std::size_t>(end - begin), advice);
}

void MmapFile::AdviseSequential(std::uint64_t offset, std::uint64_t length) const noexcept {
  Advise(offset, length, MADV_SEQUENTIAL);
}

void MmapFile::Release(std::uint64_t offset, std::uint64_t length) const noexcept {
  Advise(offset, length, MADV_DONTNEED);
}

bool MmapFile::ChangedSinceOpen() const noexcept {
  struct stat status{};
  return stat(path_.c_str(), &status) != 0 || StampOf(status) != stamp_;
}

}  // namespace arrow_quant
