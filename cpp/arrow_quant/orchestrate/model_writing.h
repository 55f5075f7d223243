#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arrow_quant/io/parquet/model_writer.h"
#include "arrow_quant/model/source.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/orchestrate/report.h"
#include "arrow_quant/orchestrate/tensor_quantizer.h"

namespace arrow_quant {

// The Parquet files of one component: one for each file of the source, with the source's stem.
class ComponentWriting {
 public:
  ComponentWriting(const SourceComponent& component, std::filesystem::path directory, std::string modality);

  // Rows of one tensor; tensors come in the order of the checkpoint, and CloseFile() is between those of two source
  // files. A large one is split into parts.
  void Append(const TensorInfo& info, const MatrixShape& matrix, const TensorOutcome& outcome);

  // Finishes the file; nothing when no tensor has come since the last one.
  std::optional<WrittenFile> CloseFile();

 private:
  void OpenFor(int file_index);
  void AppendQuantized(const TensorInfo& info, const MatrixShape& matrix, const TensorOutcome& outcome);
  void AppendKept(const TensorInfo& info, const TensorOutcome& outcome);

  const SourceComponent& component_;
  std::filesystem::path directory_;
  std::string modality_;
  std::unique_ptr<ParquetModelWriter> writer_;
};

// Copies config.json, tokenizer and the other files that hold no weights, writes metadata.json, adds
// quantization_config to config.json, and writes manifest.json last.
void WriteSideFiles(const ModelSource& source, const ModelOptions& options, const ModelResult& result,
                    const std::vector<WrittenFile>& files, const std::filesystem::path& directory);

}  // namespace arrow_quant
