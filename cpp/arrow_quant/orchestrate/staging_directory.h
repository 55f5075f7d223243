#pragma once

#include <filesystem>

namespace arrow_quant {

// A hidden directory beside the target that becomes the target on Commit() and is removed otherwise.
class StagingDirectory {
 public:
  // Throws Error kInvalidArgument when the target exists, is not empty and `overwrite` is false, or when it holds no
  // model that could be meant to be replaced; kIo.
  StagingDirectory(const std::filesystem::path& target, bool overwrite);
  ~StagingDirectory();
  StagingDirectory(const StagingDirectory&) = delete;
  StagingDirectory& operator=(const StagingDirectory&) = delete;

  const std::filesystem::path& path() const { return staging_; }
  // Throws as the constructor when something has come to the target meanwhile.
  void Commit();

 private:
  void RefuseExisting() const;

  std::filesystem::path target_;
  std::filesystem::path staging_;
  bool overwrite_ = false;
  bool committed_ = false;
};

}  // namespace arrow_quant
