#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/base/dtype.h"
#include "arrow_quant/io/parquet/model_reader.h"

namespace arrow_quant {

struct LegacyOptions {
  // Some tools put the first of four 2-bit codes into the high bits of a byte; no file says so of itself.
  bool msb_first = false;
};

// How a code of an older file is stored.
enum class CodeStorage {
  kRaw,        // no codes: values of `raw_dtype`
  kByte,       // one byte per weight
  kPackedLsb,  // the first code in the low bits
  kPackedMsb,  // the first code in the high bits
};

// Which weights share a scale.
enum class ScaleLayout {
  kNone,
  kPerTensor,
  kPerChannel,  // along `axis`
  kBlocks,      // `block` consecutive weights of the flattened tensor; the last scale also covers what is left
};

// A tensor of an older layout with its meaning made explicit: weight = (code - code_offset - zero_point) * scale.
struct LegacyTensor {
  std::string name;
  std::vector<std::uint64_t> shape;
  std::uint64_t num_params = 0;
  CodeStorage storage = CodeStorage::kRaw;
  DType raw_dtype = DType::kF32;
  int bits = 0;
  bool is_signed = false;  // codes are two's complement bytes, or packed with an offset of 2^(bits-1)
  ScaleLayout scale_layout = ScaleLayout::kNone;
  std::uint64_t axis = 0;
  std::uint64_t block = 0;
  std::span<const std::uint8_t> data;
  std::span<const float> scales;
  std::span<const float> zero_points;  // as many as scales, or empty for zeros
  std::shared_ptr<const void> owner;
  std::vector<std::string> warnings;  // full sentences
};

// Find out what the row of a file older than ours means. An empty data cell is filled from the ".bin" file beside it.
// Throws Error kInvalidArgument for a tensor of our own layout, kCorruptFile for missing weights, malformed JSON and
// non-finite scales, kShapeMismatch where lengths fit no rule, kUnsupported for an unknown dtype.
LegacyTensor NormalizeLegacy(const LoadedTensor& tensor, const LegacyOptions& options = {});

// Write the num_params weights, in C order of the shape, to `out`. Raw values other than float32 are the caller's to
// convert: Error kInvalidArgument.
void DequantizeLegacy(const LegacyTensor& tensor, float* out);

// Both at once.
void DequantizeLegacy(const LoadedTensor& tensor, float* out, const LegacyOptions& options = {});

}  // namespace arrow_quant
