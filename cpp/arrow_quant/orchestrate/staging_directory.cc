#include "arrow_quant/orchestrate/staging_directory.h"

#include <fcntl.h>

#include <cstdio>
#include <string>
#include <system_error>
#include <vector>

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

void RefuseExisting(const fs::path& target, bool overwrite) {
  std::error_code ignored;
  if (!fs::exists(target, ignored)) return;
  if (fs::is_directory(target) && fs::is_empty(target)) return;
  if (!overwrite) {
    throw Error(ErrorCode::kInvalidArgument, "the output exists and is not empty",
                {.file = target.string(), .remedy = "Choose another output or use --overwrite."});
  }
  if (!HoldsModel(target)) {
    throw Error(ErrorCode::kInvalidArgument, "the output holds no model, so it is not replaced",
                {.file = target.string(), .remedy = "Choose another output, or empty it yourself."});
  }
}

// The target, once it is known that it may be written to: a refusal makes no directory.
fs::path Checked(const fs::path& target, bool overwrite) {
  fs::path path = Normalized(target);
  RefuseExisting(path, overwrite);
  return path;
}

// What only this run can have written there: files of the target get their names when they are complete, and those of
// weights are written again or found in the journal.
void RemoveAllButWeights(const fs::path& directory) {
  std::vector<fs::path> others;
  std::error_code error;
  for (fs::recursive_directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (!it->is_directory() && it->path().extension() != ".parquet") others.push_back(it->path());
  }
  for (const fs::path& path : others) fs::remove(path, error);
}

}  // namespace

StagingDirectory::StagingDirectory(const fs::path& target, bool overwrite)
    : target_(Checked(target, overwrite)),
      overwrite_(overwrite),
      directory_(PathFor(target_)),
      output_(directory_ / "output"),
      replaced_(directory_ / "replaced"),
      lock_(directory_),
      journal_(directory_) {
  RestoreReplaced();
  RefuseExisting(target_, overwrite_);
}

fs::path StagingDirectory::PathFor(const fs::path& target) {
  const fs::path path = Normalized(target);
  return path.parent_path() / ("." + path.filename().string() + ".partial");
}

StagingDirectory::~StagingDirectory() {
  if (!ended_ && !journal_.HasWork()) Discard();
}

// A run was killed between the two renames of Replace().
void StagingDirectory::RestoreReplaced() {
  std::error_code ignored;
  if (!fs::exists(replaced_, ignored)) return;
  if (fs::exists(target_, ignored)) {
    fs::remove_all(replaced_, ignored);
  } else {
    fs::rename(replaced_, target_, ignored);
  }
}

void StagingDirectory::Begin(const std::string& key, bool resume) {
  if (journal_.Continues(key, overwrite_, resume, target_)) {
    RemoveAllButWeights(output_);
  } else {
    std::error_code error;
    fs::remove_all(output_, error);
    journal_.Begin(key, overwrite_);
  }
  fs::create_directories(output_);
}

void StagingDirectory::Discard() noexcept {
  std::error_code ignored;
  journal_.Remove();
  fs::remove_all(output_, ignored);
  for (const char* name : {"statistics.json", "statistics.parquet", "layer_sensitivity.json"})
    fs::remove(directory_ / name, ignored);
  lock_.Release();
  ended_ = true;
}

void StagingDirectory::Replace() {
  // At once where the file system can, so that there is an old or a new target at every moment.
  if (::renameat2(AT_FDCWD, output_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) return;
  fs::rename(target_, replaced_);
  fs::rename(output_, target_);
}

void StagingDirectory::Commit() {
  RefuseExisting(target_, overwrite_);
  try {
    if (fs::exists(target_)) {
      Replace();
    } else {
      fs::rename(output_, target_);
    }
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorCode::kIo, "cannot put the result in place: " + error.code().message(),
                {.file = target_.string()});
  }
  std::error_code ignored;
  fs::remove_all(replaced_, ignored);
  Discard();
}

}  // namespace arrow_quant
