#include "arrow_quant/io/safetensors/header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "arrow_quant/base/text.h"
#include "arrow_quant/io/utf8.h"

namespace arrow_quant {
namespace {

using Fault = SafetensorsFault;

constexpr std::uint64_t kLengthBytes = 8;
constexpr int kMaxDepth = 8;
constexpr std::int64_t kMaxInt64 = std::numeric_limits<std::int64_t>::max();
constexpr std::string_view kMetadataKey = "__metadata__";
constexpr std::string_view kLfsPrefix = "version https://git-lfs.github.com/spec/";

// Element types that safetensors knows and that only already quantized models hold.
constexpr std::array<std::string_view, 6> kQuantizedDtypes = {"F4",      "F6_E2M3",     "F6_E3M2",
                                                              "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"};

struct Signature {
  std::string_view bytes;
  std::string_view what;
};
constexpr std::array kForeignSignatures = {
    Signature{"PK\x03\x04", "a zip archive, probably a torch pickle"},
    Signature{"GGUF", "a GGUF file"},
    Signature{"\x89HDF", "an HDF5 file"},
    Signature{"PAR1", "a Parquet file"},
    Signature{"<!DOCTYPE", "a web page, probably the error page of a download"},
    Signature{"<!doctype", "a web page, probably the error page of a download"},
    Signature{"<html", "a web page, probably the error page of a download"},
};

std::string Quoted(std::string_view text) { return "'" + Shortened(text, 80) + "'"; }

// True for an integer that is too large for 64 bits: the parser hands it on as a floating-point number.
bool IsHugeInteger(const std::string& literal) {
  return !literal.empty() && literal.find_first_not_of("0123456789") == std::string::npos;
}

std::string UnknownDtypeDetail(const std::string& name) {
  const bool quantized = std::find(kQuantizedDtypes.begin(), kQuantizedDtypes.end(), name) != kQuantizedDtypes.end();
  return "dtype " + Quoted(name) + (quantized ? " belongs to an already quantized model" : " is unknown");
}

// Elements and bytes of a tensor; false when either leaves 63 bits. An axis of zero does not excuse the others, so that
// products of some of the axes cannot overflow later.
bool CountElements(TensorInfo& info) {
  std::int64_t product = static_cast<std::int64_t>(ByteSize(info.dtype));
  bool empty = false;
  for (const std::int64_t size : info.shape) {
    empty = empty || size == 0;
    if (__builtin_mul_overflow(product, std::max<std::int64_t>(size, 1), &product)) return false;
  }
  info.num_bytes = empty ? 0 : product;
  info.num_elements = info.num_bytes / static_cast<std::int64_t>(ByteSize(info.dtype));
  return true;
}

// Receives the header's JSON event by event, so that a fault stops it at once and nothing but tensors is kept.
class HeaderReader final : public nlohmann::json::json_sax_t {
 public:
  HeaderReader(SafetensorsHeader& out, std::uint64_t data_bytes) : out_(out), data_bytes_(data_bytes) {}

  bool null() override { return Scalar(Kind::kNull); }
  bool boolean(bool) override { return Scalar(Kind::kOther); }
  bool number_integer(number_integer_t) override { return Scalar(Kind::kNegative); }
  bool number_unsigned(number_unsigned_t value) override {
    number_ = value;
    return Scalar(Kind::kUnsigned);
  }
  bool number_float(number_float_t, const string_t& literal) override {
    number_ = std::numeric_limits<std::uint64_t>::max();
    return Scalar(IsHugeInteger(literal) ? Kind::kUnsigned : Kind::kOther);
  }
  bool string(string_t& value) override {
    text_ = &value;
    return Scalar(Kind::kString);
  }
  bool binary(binary_t&) override { return Scalar(Kind::kOther); }

  bool key(string_t& name) override {
    if (depth_ == 1) return BeginEntry(name);
    if (depth_ == 2) return in_metadata_ ? MetadataKey(name) : FieldKey(name);
    return true;
  }

  bool start_object(std::size_t) override { return Open(true); }
  bool start_array(std::size_t) override { return Open(false); }
  bool end_array() override { return Close(); }
  bool end_object() override {
    if (depth_ == 2 && !in_metadata_ && !FinishTensor()) return false;
    return Close();
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    return Fail(Fault::kNotJson, "the header is not JSON: it goes wrong at byte " + std::to_string(position));
  }

 private:
  enum class Kind { kNull, kUnsigned, kNegative, kString, kOther };
  enum class Field { kIgnored, kDtype, kShape, kOffsets };

  bool Fail(Fault fault, std::string detail) {
    if (!out_.ok()) return false;
    out_.fault = fault;
    out_.detail = std::move(detail);
    if (depth_ >= 1 && !in_metadata_) out_.tensor = entry_;
    return false;
  }

  bool BeginEntry(const std::string& name) {
    entry_ = name;
    in_metadata_ = name == kMetadataKey;
    if (name.size() > kMaxTensorNameBytes) return Fail(Fault::kBadEntry, "the tensor's name is too long");
    if (!names_.insert(name).second) return Fail(Fault::kDuplicateKey, Quoted(name) + " is in the header twice");
    return true;
  }

  bool MetadataKey(const std::string& name) {
    metadata_key_ = name;
    if (out_.metadata.contains(name)) return Fail(Fault::kDuplicateKey, "__metadata__ has " + Quoted(name) + " twice");
    return true;
  }

  bool FieldKey(const std::string& name) {
    field_ = name == "dtype"          ? Field::kDtype
             : name == "shape"        ? Field::kShape
             : name == "data_offsets" ? Field::kOffsets
                                      : Field::kIgnored;
    if (field_ == Field::kIgnored) return true;
    bool& seen = seen_[static_cast<std::size_t>(field_)];
    if (seen) return Fail(Fault::kDuplicateKey, "the tensor has '" + name + "' twice");
    return seen = true;
  }

  bool Open(bool object) {
    if (++depth_ > kMaxDepth) return Fail(Fault::kTooDeep, "the header is nested too deeply");
    if (depth_ == 1) return object || Fail(Fault::kNotObject, "the header is not a JSON object");
    if (depth_ == 2 && object) {
      StartTensor();
      return true;
    }
    if (in_metadata_) return FailMetadata();
    if (depth_ == 2) return Fail(Fault::kBadEntry, "the tensor's entry is not an object");
    if (depth_ == 3 && !object && (field_ == Field::kShape || field_ == Field::kOffsets)) return true;
    return field_ == Field::kIgnored || FailField();
  }

  bool Close() {
    --depth_;
    return true;
  }

  bool Scalar(Kind kind) {
    if (depth_ == 0) return Fail(Fault::kNotObject, "the header is not a JSON object");
    if (in_metadata_) return MetadataValue(kind);
    if (depth_ == 1) return Fail(Fault::kBadEntry, "the tensor's entry is not an object");
    if (field_ == Field::kIgnored) return true;
    if (depth_ == 3 && field_ == Field::kShape) return Axis(kind);
    if (depth_ == 3 && field_ == Field::kOffsets) return Offset(kind);
    if (depth_ != 2 || field_ != Field::kDtype || kind != Kind::kString) return FailField();
    dtype_ = *text_;
    return true;
  }

  bool MetadataValue(Kind kind) {
    if (depth_ == 1) return kind == Kind::kNull || FailMetadata();
    if (kind != Kind::kString) return FailMetadata();
    out_.metadata.emplace(metadata_key_, *text_);
    return true;
  }

  bool Axis(Kind kind) {
    if (kind != Kind::kUnsigned) return FailField();
    if (number_ > static_cast<std::uint64_t>(kMaxInt64)) return FailOverflow();
    if (tensor_.shape.size() == kMaxTensorRank) return Fail(Fault::kBadShape, "the shape has more than 64 axes");
    tensor_.shape.push_back(static_cast<std::int64_t>(number_));
    return true;
  }

  bool Offset(Kind kind) {
    if (kind != Kind::kUnsigned || offset_count_ == offsets_.size()) return FailField();
    offsets_[offset_count_++] = number_;
    return true;
  }

  bool FailOverflow() { return Fail(Fault::kShapeOverflow, "the shape has more elements than 63 bits count"); }
  bool FailMetadata() { return Fail(Fault::kBadMetadata, "__metadata__ is not an object of strings"); }
  bool FailField() {
    switch (field_) {
      case Field::kShape:
        return Fail(Fault::kBadShape, "the shape is not an array of integers of at least 0");
      case Field::kOffsets:
        return Fail(Fault::kBadOffsets, "data_offsets is not an array of two integers of at least 0");
      case Field::kDtype:
      case Field::kIgnored:
        break;
    }
    return Fail(Fault::kBadEntry, "the dtype is not a string");
  }

  void StartTensor() {
    seen_ = {};
    tensor_ = {};
    offset_count_ = 0;
    field_ = Field::kIgnored;
  }

  bool FinishTensor() {
    constexpr std::array kFields = {std::pair{Field::kDtype, "dtype"}, std::pair{Field::kShape, "shape"},
                                    std::pair{Field::kOffsets, "data_offsets"}};
    for (const auto& [field, name] : kFields) {
      if (!seen_[static_cast<std::size_t>(field)]) return Fail(Fault::kBadEntry, std::string("there is no ") + name);
    }
    const std::optional<DType> dtype = DTypeFromSafetensors(dtype_);
    if (!dtype) return Fail(Fault::kUnknownDtype, UnknownDtypeDetail(dtype_));
    tensor_.dtype = *dtype;
    if (!CountElements(tensor_)) return FailOverflow();
    return CheckSpan() && Keep();
  }

  bool CheckSpan() {
    if (offset_count_ != offsets_.size()) return FailField(Field::kOffsets);
    const auto [begin, end] = offsets_;
    const std::string span = "data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) + "]";
    if (end < begin) return Fail(Fault::kBadOffsets, span + " end before they begin");
    if (end > data_bytes_) {
      return Fail(Fault::kOffsetsPastEnd,
                  span + " end after the file's " + std::to_string(data_bytes_) + " bytes of data; it is cut off");
    }
    if (end - begin != static_cast<std::uint64_t>(tensor_.num_bytes)) {
      return Fail(Fault::kSizeMismatch,
                  span + " differ from the " + std::to_string(tensor_.num_bytes) + " bytes of shape and dtype");
    }
    return true;
  }

  bool FailField(Field field) {
    field_ = field;
    return FailField();
  }

  bool Keep() {
    tensor_.name = entry_;
    tensor_.offset = static_cast<std::int64_t>(out_.header_bytes + offsets_[0]);
    out_.tensors.push_back(std::move(tensor_));
    return true;
  }

  SafetensorsHeader& out_;
  const std::uint64_t data_bytes_;
  int depth_ = 0;
  bool in_metadata_ = false;
  Field field_ = Field::kIgnored;
  std::array<bool, 4> seen_{};
  std::uint64_t number_ = 0;
  const std::string* text_ = nullptr;
  std::string entry_;
  std::string metadata_key_;
  std::string dtype_;
  std::array<std::uint64_t, 2> offsets_{};
  std::size_t offset_count_ = 0;
  TensorInfo tensor_;
  std::unordered_set<std::string> names_;
};

SafetensorsHeader Failure(Fault fault, std::string detail, std::string tensor = {}) {
  SafetensorsHeader failed;
  failed.fault = fault;
  failed.detail = std::move(detail);
  failed.tensor = std::move(tensor);
  return failed;
}

// The spans must follow each other without a gap and fill the data to the file's end.
SafetensorsHeader CheckLayout(SafetensorsHeader header, std::uint64_t file_size) {
  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.offset, a.num_bytes, a.name) < std::tie(b.offset, b.num_bytes, b.name);
  });
  auto expected = static_cast<std::int64_t>(header.header_bytes);
  for (const TensorInfo& info : header.tensors) {
    if (info.offset < expected) return Failure(Fault::kOverlap, "the data overlap another tensor's", info.name);
    if (info.offset > expected) {
      return Failure(Fault::kHole,
                     std::to_string(info.offset - expected) + " bytes before the data belong to no tensor", info.name);
    }
    expected += info.num_bytes;
  }
  if (static_cast<std::uint64_t>(expected) != file_size) {
    const std::uint64_t extra = file_size - static_cast<std::uint64_t>(expected);
    return Failure(Fault::kHole, std::to_string(extra) + " bytes at the end of the file belong to no tensor");
  }
  return header;
}

// A length field that cannot be one: tells what the file is instead, where its first bytes say so.
SafetensorsHeader BadLength(std::string_view start, Fault fault, std::uint64_t length) {
  for (const Signature& signature : kForeignSignatures) {
    if (start.starts_with(signature.bytes)) {
      return Failure(Fault::kForeignFormat, "not a safetensors file but " + std::string(signature.what));
    }
  }
  return Failure(fault,
                 "the header claims " + std::to_string(length) + " bytes, " +
                     (fault == Fault::kHeaderTooLarge ? "more than the limit of 100 MB" : "more than the file has"));
}

}  // namespace

std::string_view SafetensorsFaultName(SafetensorsFault fault) {
  constexpr std::array<std::string_view, 21> kNames = {
      "none",          "file_too_short", "git_lfs_pointer", "foreign_format", "header_too_large", "header_past_end",
      "not_utf8",      "not_json",       "not_object",      "too_deep",       "duplicate_key",    "bad_entry",
      "unknown_dtype", "bad_shape",      "shape_overflow",  "bad_offsets",    "offsets_past_end", "size_mismatch",
      "overlap",       "hole",           "bad_metadata"};
  return kNames[static_cast<std::size_t>(fault)];
}

SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> file_prefix, std::uint64_t file_size) {
  const std::string_view start(reinterpret_cast<const char*>(file_prefix.data()), file_prefix.size());
  if (start.starts_with(kLfsPrefix)) return Failure(Fault::kGitLfsPointer, "this is a Git LFS pointer, not the file");
  if (start.size() < kLengthBytes || file_size < kLengthBytes) {
    return Failure(Fault::kFileTooShort, "the file has fewer than 8 bytes");
  }
  static_assert(std::endian::native == std::endian::little, "the length field is little-endian");
  std::uint64_t length = 0;
  std::memcpy(&length, start.data(), kLengthBytes);
  if (length > kMaxSafetensorsHeaderBytes) return BadLength(start, Fault::kHeaderTooLarge, length);
  if (length > file_size - kLengthBytes || length > start.size() - kLengthBytes) {
    return BadLength(start, Fault::kHeaderPastEnd, length);
  }

  const std::string_view json = start.substr(kLengthBytes, static_cast<std::size_t>(length));
  if (!IsValidUtf8(json)) return Failure(Fault::kNotUtf8, "the header is not valid UTF-8");
  // The JSON library takes a NUL for the end of its input and would not look at what follows.
  if (json.find('\0') != std::string_view::npos) return Failure(Fault::kNotJson, "the header has a NUL byte in it");

  SafetensorsHeader header;
  header.header_bytes = kLengthBytes + length;
  HeaderReader reader(header, file_size - header.header_bytes);
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &reader)) {
    return Failure(header.fault, std::move(header.detail), std::move(header.tensor));
  }
  if (json.front() != '{') return Failure(Fault::kNotObject, "the header does not begin with '{'");
  return CheckLayout(std::move(header), file_size);
}

}  // namespace arrow_quant
