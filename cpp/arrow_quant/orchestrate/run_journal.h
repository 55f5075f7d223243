#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "arrow_quant/orchestrate/outcome_spool.h"

namespace arrow_quant {

// What a run has finished, kept beside the output that it makes so that another run can continue:
//
//   run.json           the key of the run (see RunKey), written before the first tensor
//   progress/0-2.done  of component 0 the third file: its checksum, and the reports of its tensors
//   progress/0-3.spool the outcomes of the tensors of the file that is being written
//   progress/widths.figures what mixed precision has measured of layers
class RunJournal {
 public:
  // Of one source file: the number of its component and its number in the checkpoint.
  struct FileId {
    std::size_t component = 0;
    int file = 0;
  };

  explicit RunJournal(const std::filesystem::path& directory);

  // Whether a run is to continue what is here, where `overwrite` and `resume` are the run's options. A run that was
  // begun without `overwrite` is begun anew with it, as one of another key is. Throws Error kInvalidArgument where the
  // keys differ and neither option allows to throw the work away: the message says what has changed.
  bool Continues(const std::string& key, bool overwrite, bool resume, const std::filesystem::path& output) const;
  // Throws all away and notes the key. Throws Error kIo.
  void Begin(const std::string& key, bool overwrite);

  // The file of an earlier run when it is still in `directory` as it was written. Throws Error kIo.
  std::optional<FinishedFile> Finished(FileId id, const std::filesystem::path& directory) const;
  // Throws Error kIo.
  void Finish(FileId id, const FinishedFile& file);
  std::filesystem::path SpoolPath(FileId id) const;
  // Where the figures of mixed precision are kept.
  std::filesystem::path FiguresPath() const;

  // Whether something is finished that another run could use.
  bool HasWork() const;
  // Bytes of all spools.
  std::uint64_t SpoolBytes() const;
  void Remove() noexcept;

 private:
  std::filesystem::path DonePath(FileId id) const;

  std::filesystem::path file_;
  std::filesystem::path progress_;
};

}  // namespace arrow_quant
