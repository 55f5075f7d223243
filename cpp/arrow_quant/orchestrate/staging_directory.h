#pragma once

#include <filesystem>
#include <string>

#include "arrow_quant/orchestrate/run_journal.h"
#include "arrow_quant/orchestrate/run_lock.h"

namespace arrow_quant {

// The hidden directory ".<target>.partial" beside the target: one run's at a time. What becomes the target on Commit()
// is in its sub-directory `output`, what lets another run continue in its journal. Without Commit() it stays when
// there is something to continue from, and is removed otherwise. A caller may keep the statistics of a run that had to
// be sampled in it as `statistics.parquet` and `.json`; they go when it goes.
class StagingDirectory {
 public:
  // The hidden directory of a target.
  static std::filesystem::path PathFor(const std::filesystem::path& target);

  // Throws Error kInvalidArgument when the target exists, is not empty and `overwrite` is false, or when it holds no
  // model that could be meant to be replaced, or when another run has this target; kIo.
  StagingDirectory(const std::filesystem::path& target, bool overwrite);
  ~StagingDirectory();
  StagingDirectory(const StagingDirectory&) = delete;
  StagingDirectory& operator=(const StagingDirectory&) = delete;

  // Continues the earlier run of this key or begins anew, see RunJournal::Continues. Throws Error kInvalidArgument,
  // kIo.
  void Begin(const std::string& key, bool resume);

  const std::filesystem::path& path() const { return output_; }
  RunJournal& journal() { return journal_; }
  // False where the file system knows no locks.
  bool locked() const { return lock_.held(); }

  // Throws as the constructor when something has come to the target meanwhile.
  void Commit();
  // Nothing of this run is of use to another one.
  void Discard() noexcept;
  bool ended() const { return ended_; }

 private:
  void RestoreReplaced();
  void Replace();

  std::filesystem::path target_;
  bool overwrite_ = false;
  std::filesystem::path directory_;
  std::filesystem::path output_;
  std::filesystem::path replaced_;  // where an old target is for a moment
  RunLock lock_;
  RunJournal journal_;
  bool ended_ = false;
};

}  // namespace arrow_quant
