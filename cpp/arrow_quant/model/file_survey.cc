#include "arrow_quant/model/file_survey.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <system_error>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/checkpoint_layout.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxDepth = 16;
constexpr std::array<std::string_view, 8> kForeignSuffixes = {".msgpack", ".h5", ".onnx",   ".onnx_data",
                                                              ".gguf",    ".ot", ".tflite", ".mlmodel"};
constexpr std::array<std::string_view, 3> kCalibrationFiles = {"calibration.jsonl", "calibration.parquet",
                                                               "calibration.arrow"};

template <typename Names>
bool EndsWithAny(std::string_view name, const Names& suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(), [&](std::string_view suffix) { return name.ends_with(suffix); });
}

// Why a file that is no chosen weight file stays out of the output; "" when it is copied.
std::string ReasonToSkip(const std::string& name, bool quantized_directory) {
  if (name.starts_with('.')) return "hidden";
  if (IsPickleName(name) || name.find(".bin.index.") != std::string::npos) {
    return "pickled weights: never read and never copied";
  }
  if (std::find(kCalibrationFiles.begin(), kCalibrationFiles.end(), name) != kCalibrationFiles.end()) {
    return "calibration data";
  }
  if (name.ends_with(".parquet")) return "a Parquet file, which the output would take for its own";
  if (EndsWithAny(name, kForeignSuffixes)) return "weights of another framework";
  if (quantized_directory && ParseWeightFileName(name)) return "another checkpoint or variant, which was not chosen";
  return {};
}

class Survey {
 public:
  Survey(const std::set<fs::path>& used, const std::set<std::string>& quantized_directories)
      : used_(used), quantized_directories_(quantized_directories) {}

  void Walk(const fs::path& directory, const std::string& relative, int depth) {
    std::error_code error;
    const fs::path canonical = fs::canonical(directory, error);
    if (error || depth > kMaxDepth || !visited_.insert(canonical).second) {
      Skip(relative, "a directory that is a loop of links, too deep, or not readable");
      return;
    }
    std::vector<fs::path> entries;
    for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
      entries.push_back(it->path());
    }
    if (error) Skip(relative, "a directory that cannot be read: " + error.message());
    for (const fs::path& entry : entries) Visit(entry, relative, depth);
    visited_.erase(canonical);
  }

  FileSurvey Take() {
    std::sort(survey_.other_files.begin(), survey_.other_files.end());
    std::sort(survey_.skipped_files.begin(), survey_.skipped_files.end(),
              [](const SkippedFile& a, const SkippedFile& b) { return a.path < b.path; });
    return std::move(survey_);
  }

 private:
  void Skip(const std::string& path, std::string reason) { survey_.skipped_files.push_back({path, std::move(reason)}); }

  void Visit(const fs::path& entry, const std::string& directory, int depth) {
    const std::string name = entry.filename().string();
    const std::string relative = directory.empty() ? name : directory + "/" + name;
    std::error_code error;
    const fs::file_status status = fs::status(entry, error);
    if (fs::is_directory(status)) {
      if (name.starts_with('.')) return Skip(relative, "hidden");
      return Walk(entry, relative, depth + 1);
    }
    if (!fs::is_regular_file(status)) return Skip(relative, "a dangling link or not a regular file");
    if (used_.contains(entry.lexically_normal())) return;
    std::string reason = ReasonToSkip(name, quantized_directories_.contains(directory));
    if (!reason.empty()) return Skip(relative, std::move(reason));
    survey_.other_files.push_back(relative);
  }

  const std::set<fs::path>& used_;
  const std::set<std::string>& quantized_directories_;
  std::set<fs::path> visited_;  // the directories above, by canonical path
  FileSurvey survey_;
};

}  // namespace

FileSurvey SurveyFiles(const fs::path& root, const std::set<fs::path>& used,
                       const std::set<std::string>& quantized_directories) {
  Survey survey(used, quantized_directories);
  survey.Walk(root, "", 0);
  return survey.Take();
}

}  // namespace arrow_quant
