#include "arrow_quant/io/checkpoint.h"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/checkpoint_layout.h"
#include "arrow_quant/io/json_internal.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void Corrupt(const fs::path& file, std::string message, std::string tensor = {}) {
  throw Error(ErrorCode::kCorruptFile, std::move(message),
              {.file = file.string(), .tensor = std::move(tensor), .remedy = "Download the model again."});
}

// A shard's name may lead into a sub-directory, never out of the index's directory.
bool IsSafeShardName(const std::string& name) {
  if (name.empty() || std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20; })) return false;
  std::string portable = name;
  std::replace(portable.begin(), portable.end(), '\\', '/');
  const fs::path path(portable);
  if (path.is_absolute() || (portable.size() > 1 && portable[1] == ':')) return false;
  return std::none_of(path.begin(), path.end(), [](const fs::path& part) { return part == ".."; });
}

struct Index {
  std::map<std::string, std::set<std::string>> shards;  // tensors by shard
  std::map<std::string, std::string> metadata;
};

std::string ShardNameOf(const fs::path& index_path, const std::string& tensor, const nlohmann::json& value) {
  if (!value.is_string()) Corrupt(index_path, "the weight_map does not give a file name", tensor);
  const auto shard = value.get<std::string>();
  if (!IsSafeShardName(shard)) {
    throw Error(ErrorCode::kCorruptFile, "the index names '" + shard + "', which leads out of its directory",
                {.file = index_path.string(), .tensor = tensor, .remedy = "Do not trust this file."});
  }
  if (IsPickleName(shard)) {
    throw Error(ErrorCode::kUnsupported, "this is the index of pickled weights ('" + shard + "')",
                {.file = index_path.string(),
                 .remedy = "Pickles can run code and are never opened. Save the model with save_pretrained(..., "
                           "safe_serialization=True)."});
  }
  return fs::path(shard).lexically_normal().string();
}

Index ReadIndex(const fs::path& path) {
  const nlohmann::json json = ParseJson(ReadTextFile(path), path.string());
  const auto weight_map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || weight_map == json.end() || !weight_map->is_object()) {
    Corrupt(path, "not the index of a sharded checkpoint: it has no weight_map");
  }
  if (weight_map->empty()) Corrupt(path, "the weight_map is empty");
  Index index;
  for (const auto& [tensor, value] : weight_map->items()) {
    index.shards[ShardNameOf(path, tensor, value)].insert(tensor);
  }
  if (const auto metadata = json.find("metadata"); metadata != json.end() && metadata->is_object()) {
    for (const auto& [key, value] : metadata->items()) {
      if (value.is_string()) index.metadata.emplace(key, value.get<std::string>());
    }
  }
  return index;
}

void CheckShardsExist(const fs::path& index_path, const Index& index) {
  std::string missing;
  for (const auto& [shard, tensors] : index.shards) {
    const fs::path path = index_path.parent_path() / shard;
    std::error_code error;
    if (!fs::exists(path, error)) missing += (missing.empty() ? "" : ", ") + shard;
  }
  if (!missing.empty())
    Corrupt(index_path, "files that the index names are missing (or are dangling links): " + missing);
}

void CheckShardAgrees(const fs::path& index_path, const std::string& shard, const std::set<std::string>& indexed,
                      const SafetensorsFile& file) {
  std::set<std::string> present;
  for (const TensorInfo& info : file.tensors()) present.insert(info.name);
  for (const std::string& name : indexed) {
    if (!present.contains(name))
      Corrupt(index_path, "the index places the tensor in " + shard + ", which lacks it", name);
  }
  for (const std::string& name : present) {
    if (!indexed.contains(name)) {
      Corrupt(index_path, "the tensor is in " + shard + " but the index does not place it there", name);
    }
  }
}

void RefuseOtherFormats(const fs::path& path) {
  const std::string name = path.filename().string();
  if (IsPickleName(name)) {
    throw Error(ErrorCode::kUnsupported, "a pickled checkpoint",
                {.file = path.string(),
                 .remedy = "Pickles can run code and are never opened. Load the model with its own library and save it "
                           "with save_pretrained(..., safe_serialization=True)."});
  }
  if (name.ends_with(".gguf")) {
    throw Error(ErrorCode::kUnsupported, "a GGUF file, which is already quantized",
                {.file = path.string(), .remedy = "Give the original float model."});
  }
  const auto parsed = ParseWeightFileName(name);
  if (parsed && parsed->shard_count > 1) {
    throw Error(ErrorCode::kInvalidArgument, "this is one of " + std::to_string(parsed->shard_count) + " shards",
                {.file = path.string(), .remedy = "Give the directory or the index of the model."});
  }
}

class Fnv1a {
 public:
  void Add(const void* data, std::size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < size; ++i) hash_ = (hash_ ^ bytes[i]) * 0x100000001B3ULL;
  }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xCBF29CE484222325ULL;
};

}  // namespace

void Checkpoint::AddTensor(const TensorInfo& info, int file_index) {
  const auto [entry, inserted] = by_name_.emplace(info.name, tensors_.size());
  if (!inserted) {
    const auto& other = files_[static_cast<std::size_t>(tensors_[entry->second].file_index)].path;
    Corrupt(files_[static_cast<std::size_t>(file_index)].path,
            "the tensor is also in " + other.filename().string() + "; a name must be unique", info.name);
  }
  tensors_.push_back(info);
  tensors_.back().file_index = file_index;
  if (__builtin_add_overflow(total_bytes_, info.num_bytes, &total_bytes_)) {
    Corrupt(files_.back().path, "the checkpoint has more bytes than 63 bits count", info.name);
  }
}

void Checkpoint::AddFile(const fs::path& path) {
  const SafetensorsFile& file = opened_.emplace_back(path);
  files_.push_back({.path = path, .size = file.file().stamp().size, .mtime_ns = file.file().stamp().mtime_ns});
  const int file_index = static_cast<int>(files_.size()) - 1;
  for (const TensorInfo& info : file.tensors()) AddTensor(info, file_index);
  metadata_.insert(file.metadata().begin(), file.metadata().end());
}

Checkpoint Checkpoint::OpenFile(const fs::path& path) {
  RefuseOtherFormats(path);
  Checkpoint checkpoint;
  checkpoint.AddFile(path);
  return checkpoint;
}

Checkpoint Checkpoint::OpenIndex(const fs::path& path) {
  const Index index = ReadIndex(path);
  CheckShardsExist(path, index);
  Checkpoint checkpoint;
  checkpoint.index_path_ = path;
  for (const auto& [shard, tensors] : index.shards) {
    checkpoint.AddFile(path.parent_path() / shard);
  }
  std::size_t i = 0;
  for (const auto& [shard, tensors] : index.shards) CheckShardAgrees(path, shard, tensors, checkpoint.opened_[i++]);
  checkpoint.metadata_.insert(index.metadata.begin(), index.metadata.end());
  return checkpoint;
}

Checkpoint Checkpoint::OpenDirectory(const fs::path& directory, const std::optional<std::string>& variant) {
  const CheckpointChoice choice = ChooseCheckpoint(directory, variant);
  if (!choice.index.empty()) return OpenIndex(choice.index);
  Checkpoint checkpoint;
  for (const fs::path& path : choice.files) checkpoint.AddFile(path);
  return checkpoint;
}

const TensorInfo* Checkpoint::Find(std::string_view name) const {
  const auto found = by_name_.find(std::string(name));
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

std::span<const std::byte> Checkpoint::Data(const TensorInfo& info) const {
  return opened_[static_cast<std::size_t>(info.file_index)].Data(info);
}

void Checkpoint::Prefetch(const TensorInfo& info) const noexcept {
  opened_[static_cast<std::size_t>(info.file_index)].file().AdviseSequential(
      static_cast<std::uint64_t>(info.offset), static_cast<std::uint64_t>(info.num_bytes));
}

void Checkpoint::Release(const TensorInfo& info) const noexcept {
  opened_[static_cast<std::size_t>(info.file_index)].file().Release(static_cast<std::uint64_t>(info.offset),
                                                                    static_cast<std::uint64_t>(info.num_bytes));
}

std::span<const std::byte> Checkpoint::HeaderBytes(int file_index) const {
  return opened_[static_cast<std::size_t>(file_index)].HeaderBytes();
}

std::uint64_t Checkpoint::Fingerprint() const {
  Fnv1a hash;
  for (std::size_t i = 0; i < files_.size(); ++i) {
    const std::string name = files_[i].path.filename().string();
    hash.Add(name.c_str(), name.size() + 1);
    hash.Add(&files_[i].size, sizeof files_[i].size);
    hash.Add(&files_[i].mtime_ns, sizeof files_[i].mtime_ns);
    const std::span<const std::byte> header = opened_[i].HeaderBytes();
    hash.Add(header.data(), header.size());
  }
  return hash.value();
}

std::vector<fs::path> Checkpoint::ChangedFiles() const {
  std::vector<fs::path> changed;
  for (const SafetensorsFile& file : opened_) {
    if (file.file().ChangedSinceOpen()) changed.push_back(file.file().path());
  }
  return changed;
}

void Checkpoint::RefuseChanged() const {
  for (const SafetensorsFile& opened : opened_) {
    const MmapFile& file = opened.file();
    if (file.ChangedSinceOpen()) {
      throw Error(ErrorCode::kIo, "the source changed while it was read",
                  {.file = file.path().string(), .remedy = "Run again when nothing writes to it."});
    }
    if (file.ReadFailed()) {
      throw Error(ErrorCode::kIo, "the source could not be read to its end",
                  {.file = file.path().string(), .remedy = "Check the disk, then run again."});
    }
  }
}

}  // namespace arrow_quant
