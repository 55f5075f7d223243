#include "arrow_quant/orchestrate/run_journal.h"

#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/atomic_file.h"
#include "arrow_quant/orchestrate/run_key.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::size_t kMaxJournalBytes = std::size_t{64} << 20;

// Null when there is none, or none that can be read.
Json ReadJournal(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return nullptr;
  Json json = Json::parse(ReadSmallFile(path, kMaxJournalBytes), nullptr, false);
  return json.is_object() ? json : Json(nullptr);
}

std::string NameOf(RunJournal::FileId id, const char* extension) {
  return std::to_string(id.component) + "-" + std::to_string(id.file) + extension;
}

}  // namespace

RunJournal::RunJournal(const fs::path& directory) : file_(directory / "run.json"), progress_(directory / "progress") {}

bool RunJournal::Continues(const std::string& key, bool overwrite, bool resume, const fs::path& output) const {
  const Json journal = ReadJournal(file_);
  if (journal.is_null() || !resume || !HasWork()) return false;
  if (overwrite && !journal.value("overwrite", false)) return false;
  const std::string change = DescribeKeyChange(journal.value("key", ""), key);
  if (change.empty()) return true;
  if (overwrite) return false;
  throw Error(ErrorCode::kInvalidArgument,
              "an interrupted run has left unfinished work for this output, which this run cannot continue: " + change,
              {.file = output.string(),
               .remedy = "Use --overwrite to start anew, or run with what it was begun with to continue."});
}

void RunJournal::Begin(const std::string& key, bool overwrite) {
  Remove();
  std::error_code error;
  fs::create_directories(progress_, error);
  if (error) ThrowErrno(error.value(), "cannot create the directory", progress_);
  WriteFileAtomically(file_, Json{{"key", key}, {"overwrite", overwrite}}.dump() + "\n");
}

std::optional<FinishedFile> RunJournal::Finished(FileId id, const fs::path& directory) const {
  auto finished = LoadFinishedFile(DonePath(id));
  if (!finished || finished->name.empty()) return finished;
  const fs::path path = directory / finished->name;
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error || size != finished->bytes || ChecksumFile(path) != finished->checksum) return std::nullopt;
  return finished;
}

void RunJournal::Finish(FileId id, const FinishedFile& file) {
  SaveFinishedFile(file, DonePath(id));
  std::error_code ignored;
  fs::remove(SpoolPath(id), ignored);
}

fs::path RunJournal::DonePath(FileId id) const { return progress_ / NameOf(id, ".done"); }

fs::path RunJournal::SpoolPath(FileId id) const { return progress_ / NameOf(id, ".spool"); }

fs::path RunJournal::FiguresPath() const { return progress_ / "widths.figures"; }

bool RunJournal::HasWork() const {
  std::error_code error;
  if (const auto size = fs::file_size(FiguresPath(), error); !error && size > 0) return true;
  error.clear();
  for (fs::directory_iterator it(progress_, error), end; !error && it != end; it.increment(error)) {
    const fs::path extension = it->path().extension();
    if (extension == ".done") return true;
    if (extension == ".spool" && OutcomeSpoolReader(it->path()).Next()) return true;
  }
  return false;
}

std::uint64_t RunJournal::SpoolBytes() const {
  std::uint64_t bytes = 0;
  std::error_code error;
  for (fs::directory_iterator it(progress_, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;
    const std::uintmax_t size = fs::file_size(it->path(), gone);
    if (!gone) bytes += size;
  }
  return bytes;
}

void RunJournal::Remove() noexcept {
  std::error_code ignored;
  fs::remove(file_, ignored);
  fs::remove_all(progress_, ignored);
}

}  // namespace arrow_quant
