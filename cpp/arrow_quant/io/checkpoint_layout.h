#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace arrow_quant {

// What a weight file's name says: STEM[.VARIANT][-00001-of-00002].safetensors, or the index of a sharded checkpoint,
// STEM[.VARIANT].safetensors.index.json or STEM.safetensors.index.VARIANT.json.
struct WeightFileName {
  std::string stem;
  std::string variant;  // "fp16"; only told apart for the standard stems, since other names may contain dots
  int shard = 0;        // from 1; 0 when the file is not a shard
  int shard_count = 0;
  bool is_index = false;
};

// Nothing for a name that is neither a .safetensors file nor an index of such files, and for hidden files.
std::optional<WeightFileName> ParseWeightFileName(std::string_view file_name);

// True for the endings of files that torch writes with pickle: .bin, .pt, .pth, .ckpt, .pkl, .pickle.
bool IsPickleName(std::string_view file_name);

// One checkpoint out of a directory.
struct CheckpointChoice {
  std::filesystem::path index;               // empty when there is none
  std::vector<std::filesystem::path> files;  // without an index: the file, or all shards in order
};

// Chooses the one checkpoint of `directory` (sub-directories are not looked at). An index chooses its shards among
// other files; `variant` chooses among variants, "" meaning the files without one. Throws kUnsupported where only
// pickles or GGUF files are, kModelNotFound where nothing is, kInvalidArgument naming the candidates where there are
// several or where none has the variant, and kCorruptFile for an incomplete set of shards.
CheckpointChoice ChooseCheckpoint(const std::filesystem::path& directory,
                                  const std::optional<std::string>& variant = std::nullopt);

}  // namespace arrow_quant
