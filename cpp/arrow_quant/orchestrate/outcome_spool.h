#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "arrow_quant/io/mmap_file.h"
#include "arrow_quant/orchestrate/tensor_quantizer.h"

namespace arrow_quant {

// The outcomes of the tensors of one output file that is not finished yet, in their order, so that another run can go
// on behind the last of them. A record is its length, its XXH64 checksum and its bytes; the length is written last, so
// what a killed run wrote in part ends the file for the reader. It is for the machine and the version that wrote it.
//
// Nothing is forced to the disk: a killed process loses nothing by that, and after a power failure the checksums tell
// how much is there.
class OutcomeSpool {
 public:
  // Appends after the first `valid_bytes` of the file; the rest is cut off. Throws Error kIo.
  OutcomeSpool(std::filesystem::path path, std::uint64_t valid_bytes);
  ~OutcomeSpool();
  OutcomeSpool(const OutcomeSpool&) = delete;
  OutcomeSpool& operator=(const OutcomeSpool&) = delete;

  // Throws Error kIo.
  void Append(const TensorOutcome& outcome);

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  std::uint64_t end_ = 0;
};

// Reads a spool from its beginning, one outcome at a time.
class OutcomeSpoolReader {
 public:
  // A file that is missing or empty has no records. Throws Error kIo.
  explicit OutcomeSpoolReader(const std::filesystem::path& path);

  // Nothing at the end, and from the first damaged record on.
  std::optional<TensorOutcome> Next();
  // Of the records that were read.
  std::uint64_t valid_bytes() const { return valid_bytes_; }

 private:
  std::optional<MmapFile> file_;
  std::uint64_t valid_bytes_ = 0;
};

// What remains of a tensor once its file is written.
struct FinishedTensor {
  ErrorSums sums;
  TensorReport report;
};

// An output file that is complete.
struct FinishedFile {
  std::string name;  // of the file in its directory; empty when nothing had to be written
  std::uint64_t bytes = 0;
  std::string checksum;
  std::uint64_t records = 0;
  std::vector<FinishedTensor> tensors;
};

// Writes it atomically. Throws Error kIo.
void SaveFinishedFile(const FinishedFile& file, const std::filesystem::path& path);
// Nothing where there is none, or where it is damaged.
std::optional<FinishedFile> LoadFinishedFile(const std::filesystem::path& path);

}  // namespace arrow_quant
