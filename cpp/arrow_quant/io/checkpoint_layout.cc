#include "arrow_quant/io/checkpoint_layout.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <system_error>
#include <utility>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeightSuffix = ".safetensors";
constexpr std::string_view kIndexMark = ".safetensors.index.";
constexpr std::array<std::string_view, 3> kStandardStems = {"model", "diffusion_pytorch_model", "pytorch_model"};
constexpr std::array<std::string_view, 6> kPickleSuffixes = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"};
constexpr std::string_view kConvertHint =
    "Pickles can run code and are never opened. Load the model with its own library and save it with "
    "save_pretrained(..., safe_serialization=True).";

// Takes "-00001-of-00002" out of `base`, at its end or before a last ".variant".
void TakeShard(std::string& base, WeightFileName& name) {
  constexpr std::string_view kPattern = "-00000-of-00000";
  const std::size_t at = base.rfind("-of-");
  constexpr std::size_t kDigits = 5;
  if (at == std::string::npos || at < kDigits + 1 || at + 4 + kDigits > base.size()) return;
  const std::size_t begin = at - kDigits - 1;
  const std::size_t end = begin + kPattern.size();
  for (std::size_t i = 0; i < kPattern.size(); ++i) {
    const char c = base[begin + i];
    const bool matches = kPattern[i] == '0' ? c >= '0' && c <= '9' : c == kPattern[i];
    if (!matches) return;
  }
  if (end != base.size() && base[end] != '.') return;
  int shard = 0;
  int count = 0;
  std::from_chars(base.data() + begin + 1, base.data() + at, shard);
  std::from_chars(base.data() + at + 4, base.data() + end, count);
  if (shard < 1 || shard > count) return;
  name.shard = shard;
  name.shard_count = count;
  base.erase(begin, kPattern.size());
}

// Splits "model.fp16" into the stem and the variant.
void TakeVariant(const std::string& base, WeightFileName& name) {
  name.stem = base;
  const std::size_t dot = base.find('.');
  if (dot == std::string::npos) return;
  const std::string_view stem = std::string_view(base).substr(0, dot);
  if (std::find(kStandardStems.begin(), kStandardStems.end(), stem) == kStandardStems.end()) return;
  name.variant = base.substr(dot + 1);
  name.stem = stem;
}

// The files of one stem and variant.
struct Group {
  std::vector<fs::path> indexes;
  std::vector<fs::path> singles;
  std::map<int, fs::path> shards;
  int shard_count = 0;

  fs::path FirstFile() const {
    if (!indexes.empty()) return indexes.front();
    return singles.empty() ? shards.begin()->second : singles.front();
  }
};

struct Listing {
  std::map<std::pair<std::string, std::string>, Group> groups;  // by stem and variant
  std::vector<std::string> pickles;
  std::vector<std::string> gguf;
};

void AddToGroup(Listing& listing, const fs::path& path, const WeightFileName& name) {
  std::pair key{name.stem, name.variant};
  const Group& known = listing.groups[key];
  // Shards of another count are another checkpoint.
  if (name.shard > 0 && known.shard_count != 0 && known.shard_count != name.shard_count) {
    key.first += "-of-" + std::to_string(name.shard_count);
  }
  Group& group = listing.groups[key];
  if (name.is_index) {
    group.indexes.push_back(path);
  } else if (name.shard > 0) {
    group.shards.emplace(name.shard, path);
    group.shard_count = name.shard_count;
  } else {
    group.singles.push_back(path);
  }
}

Listing ListDirectory(const fs::path& directory) {
  std::error_code error;
  std::vector<fs::path> paths;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (!it->is_directory(error)) paths.push_back(it->path());
    error.clear();
  }
  if (error) {
    throw Error(error == std::errc::no_such_file_or_directory ? ErrorCode::kModelNotFound : ErrorCode::kIo,
                "the directory cannot be read: " + error.message(),
                {.file = directory.string(), .remedy = "Check the path and its permissions."});
  }
  std::sort(paths.begin(), paths.end());
  Listing listing;
  for (const fs::path& path : paths) {
    const std::string file_name = path.filename().string();
    if (const auto name = ParseWeightFileName(file_name)) AddToGroup(listing, path, *name);
    if (IsPickleName(file_name)) listing.pickles.push_back(file_name);
    if (file_name.ends_with(".gguf")) listing.gguf.push_back(file_name);
  }
  return listing;
}

std::string Join(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kShown); ++i) text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > kShown) text += " and " + std::to_string(names.size() - kShown) + " more";
  return text;
}

[[noreturn]] void ThrowNothingToRead(const fs::path& directory, const Listing& listing) {
  if (!listing.gguf.empty()) {
    throw Error(ErrorCode::kUnsupported, "only GGUF files are here, which are already quantized: " + Join(listing.gguf),
                {.file = directory.string(), .remedy = "Give the original float model."});
  }
  if (!listing.pickles.empty()) {
    throw Error(ErrorCode::kUnsupported, "only pickled weights are here: " + Join(listing.pickles),
                {.file = directory.string(), .remedy = std::string(kConvertHint)});
  }
  throw Error(ErrorCode::kModelNotFound, "no .safetensors file is in this directory",
              {.file = directory.string(), .remedy = "Give the directory that holds the model's weights."});
}

[[noreturn]] void ThrowSeveral(const fs::path& directory, const std::vector<const Group*>& groups) {
  std::vector<std::string> names;
  names.reserve(groups.size());
  for (const Group* group : groups) names.push_back(group->FirstFile().filename().string());
  throw Error(ErrorCode::kInvalidArgument, "several checkpoints are in this directory: " + Join(names),
              {.file = directory.string(),
               .remedy = "Choose one: give its file or index as the path, or its variant (an empty variant means the "
                         "files without one)."});
}

bool HasVariant(const std::pair<std::string, std::string>& key, const std::string& variant) {
  const auto& [stem, own] = key;
  return own == variant || (own.empty() && !variant.empty() && stem.ends_with("." + variant));
}

std::vector<const Group*> Candidates(const fs::path& directory, const Listing& listing,
                                     const std::optional<std::string>& variant) {
  std::vector<const Group*> chosen;
  std::vector<std::string> names;
  for (const auto& [key, group] : listing.groups) {
    names.push_back(group.FirstFile().filename().string());
    if (!variant || HasVariant(key, *variant)) chosen.push_back(&group);
  }
  if (chosen.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "no checkpoint has the variant '" + *variant + "'",
                {.file = directory.string(), .remedy = "Choose among: " + Join(names) + "."});
  }
  return chosen;
}

CheckpointChoice ChoiceOf(const fs::path& directory, const Group& group) {
  if (group.indexes.size() > 1) {
    throw Error(ErrorCode::kInvalidArgument, "two indexes stand for one checkpoint",
                {.file = directory.string(), .remedy = "Give the path of the one to use."});
  }
  if (!group.indexes.empty()) return {.index = group.indexes.front(), .files = {}};
  if (!group.singles.empty() && !group.shards.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "both a whole checkpoint and shards are here: " + group.singles.front().filename().string() + ", " +
                    group.shards.begin()->second.filename().string(),
                {.file = directory.string(), .remedy = "Give the path of the file to use."});
  }
  CheckpointChoice choice{.index = {}, .files = group.singles};
  for (int shard = 1; shard <= group.shard_count; ++shard) {
    const auto found = group.shards.find(shard);
    if (found == group.shards.end()) {
      throw Error(ErrorCode::kCorruptFile,
                  "shard " + std::to_string(shard) + " of " + std::to_string(group.shard_count) + " is missing",
                  {.file = directory.string(), .remedy = "Download the model again."});
    }
    choice.files.push_back(found->second);
  }
  return choice;
}

}  // namespace

std::optional<WeightFileName> ParseWeightFileName(std::string_view file_name) {
  if (file_name.starts_with('.')) return std::nullopt;
  WeightFileName name;
  std::string base;
  const std::size_t mark = file_name.find(kIndexMark);
  if (mark != std::string_view::npos && file_name.ends_with(".json")) {
    name.is_index = true;
    base = file_name.substr(0, mark);
    const std::string_view rest = file_name.substr(mark + kIndexMark.size());  // "json" or "fp16.json"
    constexpr std::string_view kJson = ".json";
    if (rest.size() > kJson.size()) base += "." + std::string(rest.substr(0, rest.size() - kJson.size()));
  } else if (file_name.ends_with(kWeightSuffix)) {
    base = file_name.substr(0, file_name.size() - kWeightSuffix.size());
    TakeShard(base, name);
  } else {
    return std::nullopt;
  }
  TakeVariant(base, name);
  return name;
}

bool IsPickleName(std::string_view file_name) {
  return std::any_of(kPickleSuffixes.begin(), kPickleSuffixes.end(),
                     [&](std::string_view suffix) { return file_name.ends_with(suffix); });
}

CheckpointChoice ChooseCheckpoint(const fs::path& directory, const std::optional<std::string>& variant) {
  const Listing listing = ListDirectory(directory);
  if (listing.groups.empty()) ThrowNothingToRead(directory, listing);
  const std::vector<const Group*> candidates = Candidates(directory, listing, variant);
  std::vector<const Group*> indexed;
  std::copy_if(candidates.begin(), candidates.end(), std::back_inserter(indexed),
               [](const Group* group) { return !group->indexes.empty(); });
  const std::vector<const Group*>& remaining = indexed.empty() ? candidates : indexed;
  if (remaining.size() > 1) ThrowSeveral(directory, remaining);
  return ChoiceOf(directory, *remaining.front());
}

}  // namespace arrow_quant
