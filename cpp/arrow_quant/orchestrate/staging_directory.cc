#include "arrow_quant/orchestrate/staging_directory.h"

#include <unistd.h>

#include <atomic>
#include <string>
#include <system_error>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

// The parent's own name is needed, so "out/" and "out" are the same target.
fs::path Normalized(const fs::path& target) {
  fs::path path = fs::absolute(target).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

// Whether weights are in a directory or in one below, so that --overwrite cannot be meant for something else.
bool HoldsModel(const fs::path& directory) {
  std::error_code error;
  fs::recursive_directory_iterator it(directory, error);
  for (const fs::recursive_directory_iterator end; !error && it != end; it.increment(error)) {
    if (it.depth() >= 1) it.disable_recursion_pending();
    const fs::path extension = it->path().extension();
    if (extension == ".parquet" || extension == ".safetensors") return true;
  }
  return false;
}

}  // namespace

StagingDirectory::StagingDirectory(const fs::path& target, bool overwrite)
    : target_(Normalized(target)), overwrite_(overwrite) {
  RefuseExisting();
  // Two runs of one process may have the same target; the later one to end is then told so.
  static std::atomic<int> count{0};
  const std::string suffix = std::to_string(::getpid()) + "-" + std::to_string(count++);
  staging_ = target_.parent_path() / ("." + target_.filename().string() + ".partial-" + suffix);
  std::error_code error;
  fs::remove_all(staging_, error);
  fs::create_directories(staging_, error);
  if (error) {
    throw Error(ErrorCode::kIo, "cannot make the output directory: " + error.message(),
                {.file = staging_.string(), .remedy = "Check the rights and the free space of its parent."});
  }
}

StagingDirectory::~StagingDirectory() {
  if (committed_) return;
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
}

void StagingDirectory::RefuseExisting() const {
  std::error_code ignored;
  if (!fs::exists(target_, ignored)) return;
  if (fs::is_directory(target_) && fs::is_empty(target_)) return;
  if (!overwrite_) {
    throw Error(ErrorCode::kInvalidArgument, "the output exists and is not empty",
                {.file = target_.string(), .remedy = "Choose another output or use --overwrite."});
  }
  if (!HoldsModel(target_)) {
    throw Error(ErrorCode::kInvalidArgument, "the output holds no model, so it is not replaced",
                {.file = target_.string(), .remedy = "Choose another output, or empty it yourself."});
  }
}

void StagingDirectory::Commit() {
  RefuseExisting();
  std::error_code error;
  fs::path old;
  if (fs::exists(target_)) {
    old = staging_;
    old += ".old";
    fs::rename(target_, old, error);
  }
  if (!error) fs::rename(staging_, target_, error);
  if (error) {
    throw Error(ErrorCode::kIo, "cannot put the result in place: " + error.message(), {.file = target_.string()});
  }
  committed_ = true;
  std::error_code ignored;
  if (!old.empty()) fs::remove_all(old, ignored);
}

}  // namespace arrow_quant
