#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Files for unit tests. Not part of the library.
namespace arrow_quant::testing {

// A new directory that is removed with everything in it.
class TempDirectory {
 public:
  TempDirectory() {
    static std::atomic<int> count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("arrow_quant_" + std::to_string(getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

  // Writes `content`, making the directories in between.
  std::filesystem::path Write(std::string_view name, std::string_view content) const {
    const std::filesystem::path path = path_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

 private:
  std::filesystem::path path_;
};

// The length field, `json` and `data`.
inline std::string SafetensorsBytes(std::string_view json, std::string_view data = {}) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) bytes += static_cast<char>((json.size() >> shift) & 0xFFU);
  return bytes.append(json).append(data);
}

struct TestTensor {
  std::string name;
  std::string dtype = "F32";
  std::vector<std::int64_t> shape;
  std::int64_t bytes_per_element = 4;
};

// A valid file; every byte of the i-th tensor is i + 1. `metadata_json` is an object or empty.
inline std::string SafetensorsOf(const std::vector<TestTensor>& tensors, std::string_view metadata_json = {}) {
  std::string json = "{";
  std::string data;
  if (!metadata_json.empty()) json.append("\"__metadata__\":").append(metadata_json);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::int64_t bytes = tensors[i].bytes_per_element;
    std::string shape;
    for (const std::int64_t size : tensors[i].shape) {
      shape += (shape.empty() ? "" : ",") + std::to_string(size);
      bytes *= size;
    }
    json += (json.size() > 1 ? ",\"" : "\"") + tensors[i].name + "\":{\"dtype\":\"" + tensors[i].dtype +
            "\",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(data.size()) + ",";
    data.append(static_cast<std::size_t>(bytes), static_cast<char>(i + 1));
    json += std::to_string(data.size()) + "]}";
  }
  return SafetensorsBytes(json + "}", data);
}

// A valid file of F32 tensors of shape [2, 2].
inline std::string SafetensorsNamed(const std::vector<std::string>& names) {
  std::vector<TestTensor> tensors;
  for (const std::string& name : names) tensors.push_back({.name = name, .shape = {2, 2}});
  return SafetensorsOf(tensors);
}

// The index of a sharded checkpoint from pairs of tensor and shard.
inline std::string IndexOf(const std::vector<std::pair<std::string, std::string>>& weight_map) {
  std::string json = "{\"metadata\":{\"total_size\":1},\"weight_map\":{";
  for (std::size_t i = 0; i < weight_map.size(); ++i) {
    json += (i == 0 ? "\"" : ",\"") + weight_map[i].first + "\":\"" + weight_map[i].second + "\"";
  }
  return json + "}}";
}

}  // namespace arrow_quant::testing
