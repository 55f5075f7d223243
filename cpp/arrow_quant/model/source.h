#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/io/checkpoint.h"
#include "arrow_quant/model/modality.h"

namespace arrow_quant {

enum class SourceKind {
  kFile,      // a single .safetensors file
  kModel,     // a directory, or an index, with one checkpoint: a diffusers component, a transformers model, or plain
  kPipeline,  // a diffusers pipeline: model_index.json and a directory per component
  kParquet,   // Parquet files instead of safetensors: for io/parquet to read
};

// "file", "model", "pipeline", "parquet".
std::string_view SourceKindName(SourceKind kind);

struct SourceOptions {
  std::vector<std::string> components = {};  // of a pipeline, to quantize; empty for its denoisers
  std::optional<std::string> variant = {};   // "fp16"; "" for the files without one
};

// One checkpoint to quantize.
struct SourceComponent {
  std::string name;         // in the pipeline; "" for a model that is none
  std::string directory;    // relative to the root; "" for the root
  std::string class_name;   // from its config.json; "" when not told
  std::string config_json;  // the text; "" when there is none
  Checkpoint checkpoint;
  std::map<std::string, std::string> scale_for;  // of 8-bit float weights: see PrequantizedScan
};

struct SkippedFile {
  std::string path;  // relative to the root
  std::string reason;
};

// What a path stands for: what to quantize, what to copy, what to leave.
struct ModelSource {
  std::filesystem::path root;  // a directory
  SourceKind kind = SourceKind::kModel;
  std::vector<SourceComponent> components;  // empty for kParquet
  std::vector<std::string> other_files;     // relative to the root, sorted: to copy (config.json among them)
  std::vector<SkippedFile> skipped_files;   // neither quantized nor copied: to report
  std::string config_json;                  // the root's config.json; "" when there is none
  std::string pipeline_json;                // model_index.json; "" when there is none
  std::string metadata_json;                // the root's metadata.json; "" when there is none
};

// Finds the model at `path`: a .safetensors file, the index of a sharded checkpoint, a directory with one checkpoint, a
// diffusers pipeline, or Parquet files. Reads headers and JSON only.
// Throws kModelNotFound where nothing is, kUnsupported for pickles, GGUF and already quantized models (naming the
// method), kConfiguration for components that the pipeline lacks, kInvalidArgument where a choice is needed, and
// kCorruptFile.
ModelSource ResolveModel(const std::filesystem::path& path, const SourceOptions& options = {});

// The modality of a resolved model; `configured` is the user's option. See DetectModality(ModalityEvidence).
ModalityDecision DetectModality(const ModelSource& source, std::optional<Modality> configured = std::nullopt);

}  // namespace arrow_quant
