#pragma once

#include <filesystem>

namespace arrow_quant {

// A hidden directory beside the target that becomes the target on Commit() and is removed otherwise.
class StagingDirectory {
 public:
  // Throws Error kInvalidArgument when the target exists, is not empty and `overwrite` is false; kIo.
  StagingDirectory(const std::filesystem::path& target, bool overwrite);
  ~StagingDirectory();
  StagingDirectory(const StagingDirectory&) = delete;
  StagingDirectory& operator=(const StagingDirectory&) = delete;

  const std::filesystem::path& path() const { return staging_; }
  void Commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path staging_;
  bool committed_ = false;
};

}  // namespace arrow_quant
