#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/io/tensor_info.h"

namespace arrow_quant {

// The ways in which a safetensors file can be wrong, one value each.
enum class SafetensorsFault {
  kNone,
  kFileTooShort,    // fewer bytes than the length field
  kGitLfsPointer,   // a Git LFS pointer instead of the file it stands for
  kForeignFormat,   // another kind of file under this name: zip (torch pickle), GGUF, HTML, HDF5
  kHeaderTooLarge,  // the length field is above kMaxSafetensorsHeaderBytes
  kHeaderPastEnd,   // the header ends after the file
  kNotUtf8,
  kNotJson,
  kNotObject,     // JSON, but not an object that starts at the first byte
  kTooDeep,       // nested deeper than a header needs
  kDuplicateKey,  // a tensor, a field of a tensor or a metadata key named twice
  kBadEntry,      // a tensor that is not an object with dtype, shape and data_offsets; a name that is too long
  kUnknownDtype,
  kBadShape,        // not an array of integers of at least 0, or more than kMaxTensorRank of them
  kShapeOverflow,   // more elements or bytes than 63 bits count
  kBadOffsets,      // not two integers of at least 0, or end before begin
  kOffsetsPastEnd,  // data after the end of the file: mostly an interrupted download
  kSizeMismatch,    // bytes of the shape and dtype differ from the span of the offsets
  kOverlap,         // two tensors share bytes
  kHole,            // bytes that belong to no tensor
  kBadMetadata,     // __metadata__ is not an object of strings
};

// Stable name of `fault`, for example "header_too_large".
std::string_view SafetensorsFaultName(SafetensorsFault fault);

inline constexpr std::uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the limit of the reference implementation
inline constexpr std::size_t kMaxTensorRank = 64;                         // the limit of torch
inline constexpr std::size_t kMaxTensorNameBytes = 1024;

struct SafetensorsHeader {
  SafetensorsFault fault = SafetensorsFault::kNone;
  std::string detail;               // what is wrong with which value; empty without a fault
  std::string tensor;               // the tensor at fault, if it is one
  std::uint64_t header_bytes = 0;   // length field and JSON: where the data begin
  std::vector<TensorInfo> tensors;  // by offset, which counts from the start of the file; empty with a fault
  std::map<std::string, std::string> metadata;

  bool ok() const { return fault == SafetensorsFault::kNone; }
};

// Parses the header at the start of a safetensors file of `file_size` bytes. `file_prefix` holds at least the header
// (the whole mapped file will do); nothing behind the header is touched. Never throws for what the bytes say, and
// allocates in proportion to the header's bytes only.
SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> file_prefix, std::uint64_t file_size);

}  // namespace arrow_quant
