#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "arrow_quant/model/source.h"

namespace arrow_quant {

// Which files beside the chosen checkpoints belong into the output.
struct FileSurvey {
  std::vector<std::string> other_files;    // relative, sorted
  std::vector<SkippedFile> skipped_files;  // relative, sorted
};

// Walks `root` and its directories (links are followed, loops are not). `used`: normalized paths, starting
// with `root`, of the chosen weight and index files. `quantized_directories`: relative directories ("" for the root)
// whose other weights are other checkpoints or variants and are skipped; weights elsewhere are those of components that
// are copied.
FileSurvey SurveyFiles(const std::filesystem::path& root, const std::set<std::filesystem::path>& used,
                       const std::set<std::string>& quantized_directories);

}  // namespace arrow_quant
