#include "arrow_quant/io/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{1} << 20;
constexpr std::string_view kMarker = ".tmp-";

// A descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string Remedy(int errno_value) {
  switch (errno_value) {
    case ENOSPC:
    case EDQUOT:
      return "Free some space on that disk or choose another output directory.";
    case EFBIG:
      return "Raise the file size limit (ulimit -f) or choose a file system that takes larger files.";
    case EACCES:
    case EPERM:
      return "Give this user the right to that path or choose another one.";
    case EROFS:
      return "Choose a directory on a writable file system.";
    case ENOENT:
      return "Check the path.";
    case EMFILE:
    case ENFILE:
      return "Raise the limit of open files (ulimit -n).";
    default:
      return "";
  }
}

std::filesystem::path TemporaryFor(const std::filesystem::path& target) {
  static std::atomic<unsigned> counter{0};
  std::string name = ".";
  name += target.filename().string();
  name += kMarker;
  name += std::to_string(::getpid()) + "-" + std::to_string(counter.fetch_add(1));
  return target.parent_path() / name;
}

void SyncDirectory(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory.empty() ? std::filesystem::path(".") : directory;
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) ThrowErrno(errno, "cannot open the directory", path);
  // Some network file systems cannot sync a directory; the rename itself has succeeded by then.
  if (::fsync(fd.get()) != 0 && errno != EINVAL && errno != ENOTSUP) {
    ThrowErrno(errno, "cannot sync the directory", path);
  }
}

bool IsDigits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool RemoveIfStale(const std::filesystem::path& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (fd.get() < 0) return false;
  // A file system without locks gives no proof that the writer is gone, so the file stays.
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return false;
  return ::unlink(path.c_str()) == 0;
}

}  // namespace

void ThrowErrno(int errno_value, std::string_view action, const std::filesystem::path& path) {
  std::string reason = std::generic_category().message(errno_value);
  if (errno_value == ENOSPC) reason = "no space left on the device";
  throw Error(ErrorCode::kIo, std::string(action) + ": " + reason,
              {.file = path.string(), .remedy = Remedy(errno_value)});
}

AtomicFile::AtomicFile(std::filesystem::path target, Durability durability)
    : target_(std::move(target)), temporary_(TemporaryFor(target_)), durability_(durability) {
  // A leftover of a killed process with the same number is overwritten; a link in its place is refused.
  fd_ = ::open(temporary_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (fd_ < 0) ThrowErrno(errno, "cannot create", target_);
  ::flock(fd_, LOCK_EX | LOCK_NB);
}

AtomicFile::~AtomicFile() { Discard(); }

void AtomicFile::Discard() noexcept {
  if (fd_ < 0) return;
  ::unlink(temporary_.c_str());
  ::close(fd_);
  fd_ = -1;
}

void AtomicFile::Append(const void* data, std::size_t size) {
  if (fd_ < 0) throw Error(ErrorCode::kIo, "the file is closed already", {.file = target_.string()});
  const auto* p = static_cast<const char*>(data);
  std::size_t left = size;
  while (left > 0) {
    const ssize_t written = ::write(fd_, p, left);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) ThrowErrno(written < 0 ? errno : EIO, "cannot write", target_);
    p += written;
    left -= static_cast<std::size_t>(written);
  }
  hash_.Update(data, size);
  bytes_ += size;
}

void AtomicFile::Commit() {
  if (fd_ < 0) throw Error(ErrorCode::kIo, "the file is closed already", {.file = target_.string()});
  if (durability_ == Durability::kSync && ::fsync(fd_) != 0) ThrowErrno(errno, "cannot sync", target_);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) ThrowErrno(errno, "cannot rename the finished file", target_);
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) ThrowErrno(errno, "cannot close", target_);
  if (durability_ == Durability::kSync) SyncDirectory(target_.parent_path());
}

void WriteFileAtomically(const std::filesystem::path& path, std::string_view content, Durability durability) {
  AtomicFile file(path, durability);
  file.Append(content.data(), content.size());
  file.Commit();
}

void CopyFileAtomically(const std::filesystem::path& from, const std::filesystem::path& to, Durability durability) {
  AtomicFile file(to, durability);
  ForEachBlock(from, [&](const void* data, std::size_t size) { file.Append(data, size); });
  file.Commit();
}

bool IsTemporaryName(std::string_view name) {
  const std::size_t marker = name.rfind(kMarker);
  if (marker == std::string_view::npos || marker < 2 || name.front() != '.') return false;
  const std::string_view numbers = name.substr(marker + kMarker.size());
  const std::size_t dash = numbers.find('-');
  return dash != std::string_view::npos && IsDigits(numbers.substr(0, dash)) && IsDigits(numbers.substr(dash + 1));
}

int RemoveStaleTemporaries(const std::filesystem::path& directory) {
  int removed = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (IsTemporaryName(it->path().filename().string()) && RemoveIfStale(it->path())) ++removed;
  }
  if (error) ThrowErrno(error.value(), "cannot list", directory);
  return removed;
}

void ForEachBlock(const std::filesystem::path& path, const std::function<void(const void*, std::size_t)>& body) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) ThrowErrno(errno, "cannot open", path);
  std::vector<char> block(kBlockBytes);
  while (true) {
    const ssize_t got = ::read(fd.get(), block.data(), block.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) ThrowErrno(errno, "cannot read", path);
    if (got == 0) return;
    body(block.data(), static_cast<std::size_t>(got));
  }
}

std::string ReadSmallFile(const std::filesystem::path& path, std::size_t max_bytes) {
  std::string content;
  ForEachBlock(path, [&](const void* data, std::size_t size) {
    if (content.size() + size > max_bytes) {
      throw Error(ErrorCode::kCorruptFile, "the file is longer than " + std::to_string(max_bytes) + " bytes",
                  {.file = path.string()});
    }
    content.append(static_cast<const char*>(data), size);
  });
  return content;
}

}  // namespace arrow_quant
