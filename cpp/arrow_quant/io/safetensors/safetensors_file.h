#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/mmap_file.h"
#include "arrow_quant/io/safetensors/header.h"

namespace arrow_quant {

// An open safetensors file. Opening reads the header only; tensor bytes are views into the mapping.
class SafetensorsFile {
 public:
  // Throws kCorruptFile, or kUnsupported for a dtype that no quantizer input has, naming the file, the tensor and what
  // to do; and what MmapFile throws.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const MmapFile& file() const { return file_; }
  // By offset; file_index is 0.
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  // The length field and the JSON.
  std::span<const std::byte> HeaderBytes() const { return file_.bytes().first(header_.header_bytes); }

  // Bytes of one of tensors(), little-endian and in C order; not necessarily aligned for its dtype. Valid as long as
  // this.
  std::span<const std::byte> Data(const TensorInfo& info) const;

 private:
  MmapFile file_;
  SafetensorsHeader header_;
};

// The Error that SafetensorsFile throws for a header with a fault.
Error SafetensorsError(const SafetensorsHeader& header, const std::filesystem::path& path);

}  // namespace arrow_quant
