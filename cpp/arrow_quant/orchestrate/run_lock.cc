#include "arrow_quant/orchestrate/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/atomic_file.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kHolderBytes = 400;
// A lock's file may be removed by the run that ends while this one opens it.
constexpr int kTries = 100;

std::string Holder(int fd) {
  std::array<char, kHolderBytes> text{};
  const ssize_t got = ::pread(fd, text.data(), text.size(), 0);
  return got > 0 ? std::string(text.data(), static_cast<std::size_t>(got)) : "another process";
}

void WriteHolder(int fd) {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
  const std::string text = "process " + std::to_string(::getpid()) + " on " + host.data();
  // For a message only: a full disk must not stop a run here.
  if (::ftruncate(fd, 0) == 0 && ::pwrite(fd, text.data(), text.size(), 0) < 0) return;
}

bool IsFileAt(int fd, const fs::path& path) {
  struct stat open{};
  struct stat named{};
  return ::fstat(fd, &open) == 0 && ::stat(path.c_str(), &named) == 0 && open.st_ino == named.st_ino &&
         open.st_dev == named.st_dev;
}

void MakeDirectory(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (!error) return;
  throw Error(ErrorCode::kIo, "cannot make the output directory: " + error.message(),
              {.file = directory.string(), .remedy = "Check the rights and the free space of its parent."});
}

}  // namespace

RunLock::RunLock(const fs::path& directory) : directory_(directory), path_(directory / "lock") {
  for (int i = 0; i < kTries; ++i) {
    MakeDirectory(directory_);
    if (TryLock()) return;
  }
  throw Error(ErrorCode::kIo, "cannot be locked: other runs come and go", {.file = path_.string()});
}

// False when the file was removed meanwhile.
bool RunLock::TryLock() {
  fd_ = ::open(path_.c_str(), O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (fd_ < 0 && errno == ENOENT) return false;
  if (fd_ < 0) ThrowErrno(errno, "cannot open", path_);
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) {
    held_ = true;
  } else if (errno == EWOULDBLOCK) {
    const std::string holder = Holder(fd_);
    ::close(std::exchange(fd_, -1));
    throw Error(ErrorCode::kInvalidArgument, "the same output is being written by " + holder,
                {.file = path_.string(), .remedy = "Wait until it has ended, stop it, or choose another output."});
  }
  if (!IsFileAt(fd_, path_)) {
    ::close(std::exchange(fd_, -1));
    return held_ = false;
  }
  WriteHolder(fd_);
  return true;
}

RunLock::~RunLock() { Unlock(); }

void RunLock::Unlock() noexcept {
  if (fd_ < 0) return;
  // A child that was forked meanwhile shares the lock, which closing alone would leave to it.
  if (held_) ::flock(fd_, LOCK_UN);
  ::close(std::exchange(fd_, -1));
}

void RunLock::Release() noexcept {
  if (fd_ < 0) return;
  // While it is held, so that no other run's file is removed.
  ::unlink(path_.c_str());
  ::rmdir(directory_.c_str());
  Unlock();
}

}  // namespace arrow_quant
