#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/io/parquet/model_writer.h"

namespace arrow_quant {

// A tensor for readers of the older V2 Extended.
struct CompatTensor {
  std::string name;
  std::vector<std::uint64_t> shape;
  std::span<const float> weights = {};       // C order of `shape`
  bool quantized = true;                     // false: the values are stored as float32
  std::optional<std::string> modality = {};  // "text", "code", "image", "audio"
  // Only when one scale serves each slice along axis 0: the codes themselves, one byte each, and per slice a scale and
  // a zero point. They are stored as they are, so that nothing is lost. Empty otherwise.
  std::span<const std::uint8_t> codes = {};
  std::span<const float> scales = {};
  std::span<const float> zero_points = {};
  int bits = 8;  // of `codes`
};

// What the older layout made of a tensor.
struct CompatResult {
  WrittenFile file;
  double max_error = 0;  // largest |stored weight - given weight|
};

// File name of a tensor as the older program makes it, without a suffix against collisions:
// "model.layers.0.weight" -> "model_layers_0_weight.parquet".
std::string CompatFileName(std::string_view tensor_name);

// Writes the older V2 Extended: one file and one row per tensor, columns 1 to 12 and the spatial JSON, one unsigned
// byte per weight, weight = (code - zero_point) * scale.
//
// That layout knows no groups along the input axis. Of its two mappings, spatial row groups with group_size 1 lose
// least: each slice along axis 0 gets 256 levels from its smallest to its largest weight, so a weight moves by at most
// 1/510 of its slice's range. A tensor quantized with one affine grid per slice is kept exactly through `codes`. Lost
// in any case: the packing (every weight takes 8 bits), the grid kind, time-aware gains and corrections, equalization
// (fold them into the weights before), the method and the report. Tensors that are not quantized become float32.
class CompatWriter {
 public:
  // `directory` must exist.
  explicit CompatWriter(std::filesystem::path directory, Durability durability = Durability::kSync);

  // Throws Error kShapeMismatch for lengths that disagree, kQuantization for NaN or Inf, kInvalidArgument for a cell
  // above kMaxCellBytes, kIo.
  CompatResult Write(const CompatTensor& tensor);

 private:
  std::filesystem::path NextPath(const std::string& name);

  std::filesystem::path directory_;
  Durability durability_;
  std::set<std::string> used_;  // lower-case, for file systems that ignore case
};

}  // namespace arrow_quant
