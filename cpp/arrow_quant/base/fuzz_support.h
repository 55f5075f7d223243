#pragma once

// For libFuzzer targets (*_fuzz.cc). Not part of the library.

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "arrow_quant/base/error.h"

namespace arrow_quant::fuzz {

// Runs body(); false for an Error, which is what a malformed input may give. Anything else ends the process.
template <typename Body>
bool Accepts(Body&& body) {
  try {
    body();
    return true;
  } catch (const Error& error) {
    // An error must say something.
    if (error.message().empty()) std::abort();
    return false;
  }
}

// Ends the process where a property of an accepted input does not hold.
inline void Require(bool holds, const char* property) {
  if (holds) return;
  std::fprintf(stderr, "property violated: %s\n", property);
  std::abort();
}

// A directory in memory where the system has one, removed when the process ends.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    const std::filesystem::path shared = "/dev/shm";
    const auto parent = std::filesystem::is_directory(shared) ? shared : std::filesystem::temp_directory_path();
    path_ = parent / ("arrow_quant_fuzz_" + std::to_string(::getpid()));
    std::filesystem::create_directories(path_);
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  // Writes `content` to a file of that name and returns its path.
  std::filesystem::path Write(const char* name, std::string_view content) const {
    std::filesystem::path path = path_ / name;
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    Require(fd >= 0 && ::write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size()),
            "the scratch file can be written");
    ::close(fd);
    return path;
  }

 private:
  std::filesystem::path path_;
};

inline std::string_view TextOf(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace arrow_quant::fuzz
