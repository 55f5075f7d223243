#include "arrow_quant/io/parquet/legacy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/error.h"
#include "arrow_quant/io/atomic_file.h"
#include "arrow_quant/io/parquet/record_layout.h"

namespace arrow_quant {
namespace {

[[noreturn]] void Fail(const LoadedTensor& tensor, const std::string& message, ErrorCode code = ErrorCode::kCorruptFile,
                       const std::string& remedy = "") {
  ThrowTensorError(tensor.file.string(), tensor.record.layer_name, message, code, remedy);
}

std::uint64_t CeilDivide(std::uint64_t a, std::uint64_t b) { return a == 0 ? 0 : (a - 1) / b + 1; }

// The companion that an old converter wrote for tensors too large for its Parquet library: float32 values.
void ReadCompanion(const LoadedTensor& tensor, LegacyTensor* legacy) {
  std::filesystem::path path = tensor.file;
  path.replace_extension(".bin");
  const std::uint64_t wanted = legacy->num_params * sizeof(float);
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) {
    Fail(
        tensor,
        "the data cell is empty and there is no " + path.filename().string() + " beside the file: the weights are lost",
        ErrorCode::kCorruptFile, "Convert the model again from its source.");
  }
  if (size != wanted) {
    Fail(tensor,
         path.filename().string() + " has " + std::to_string(size) + " bytes, expected " + std::to_string(wanted),
         ErrorCode::kShapeMismatch);
  }
  const auto values = std::make_shared<AlignedVector<std::uint8_t>>();
  values->reserve(wanted);
  ForEachBlock(path, [&](const void* data, std::size_t bytes) {
    const auto* begin = static_cast<const std::uint8_t*>(data);
    if (values->size() + bytes > wanted) Fail(tensor, "the .bin file grew while it was being read", ErrorCode::kIo);
    values->insert(values->end(), begin, begin + bytes);
  });
  if (values->size() != wanted) Fail(tensor, "the .bin file shrank while it was being read", ErrorCode::kIo);
  legacy->data = *values;
  legacy->owner = values;
  legacy->storage = CodeStorage::kRaw;
  legacy->raw_dtype = DType::kF32;
}

// The element type of raw values. Some writers keep the source's dtype beside half-precision bytes: quant_type decides.
DType RawType(const LoadedTensor& tensor) {
  const std::string& type = tensor.record.quant_type;
  if (type == "fp16" || type == "float16") return DType::kF16;
  if (type == "bf16" || type == "bfloat16") return DType::kBF16;
  if (type == "fp32" || type == "float32") return DType::kF32;
  if (type == "float64") return DType::kF64;
  const std::optional<DType> dtype = DTypeFromTorch(tensor.record.dtype);
  if (!dtype) Fail(tensor, "dtype '" + tensor.record.dtype + "' is not known", ErrorCode::kUnsupported);
  return *dtype;
}

void SetRaw(const LoadedTensor& tensor, LegacyTensor* legacy) {
  legacy->storage = CodeStorage::kRaw;
  legacy->raw_dtype = RawType(tensor);
  const std::uint64_t wanted = legacy->num_params * ByteSize(legacy->raw_dtype);
  if (legacy->data.size() != wanted) {
    Fail(tensor,
         "data has " + std::to_string(legacy->data.size()) + " bytes, expected " + std::to_string(wanted) + " of " +
             std::string(TorchName(legacy->raw_dtype)),
         ErrorCode::kShapeMismatch);
  }
}

// One weight alone: packed and unpacked have the same length. The Python writer always packs 2-bit codes, and what it
// packs is no signed code in range.
bool SingleByteIsPacked(const LegacyTensor& legacy) {
  const int code =
      int{static_cast<std::int8_t>(legacy.data[0])};  // NOLINT(bugprone-signed-char-misuse): codes are signed
  const int half = 1 << (legacy.bits - 1);
  return legacy.is_signed && (code < -half || code >= half);
}

void SetStorage(const LoadedTensor& tensor, const LegacyOptions& options, LegacyTensor* legacy) {
  const std::uint64_t n = legacy->num_params;
  const std::uint64_t packed = CeilDivide(n * static_cast<std::uint64_t>(legacy->bits), 8);
  const CodeStorage order = options.msb_first ? CodeStorage::kPackedMsb : CodeStorage::kPackedLsb;
  if (legacy->data.size() == 1 && n == 1 && legacy->bits < 8) {
    legacy->storage = SingleByteIsPacked(*legacy) ? order : CodeStorage::kByte;
  } else if (legacy->data.size() == n) {
    legacy->storage = CodeStorage::kByte;
  } else if (legacy->data.size() == packed) {
    legacy->storage = order;
  } else if (legacy->data.size() == n * sizeof(float)) {
    legacy->storage = CodeStorage::kRaw;
    legacy->raw_dtype = DType::kF32;
    legacy->warnings.push_back("The row is labelled '" + tensor.record.quant_type +
                               "' but holds float32 values, which are used as they are.");
  } else {
    Fail(tensor,
         "data has " + std::to_string(legacy->data.size()) + " bytes for " + std::to_string(n) + " weights of " +
             std::to_string(legacy->bits) + " bits",
         ErrorCode::kShapeMismatch);
  }
}

// num_time_groups of the time-aware JSON.
std::uint64_t TimeGroups(const LoadedTensor& tensor, const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) Fail(tensor, "time_aware_quant_json is not a JSON object");
  const auto found = json.find("num_time_groups");
  if (found == json.end() || !found->is_number_unsigned()) {
    Fail(tensor, "time_aware_quant_json lacks a whole num_time_groups");
  }
  return found->get<std::uint64_t>();
}

void NoteSpatial(const LoadedTensor& tensor, LegacyTensor* legacy) {
  const nlohmann::json json = nlohmann::json::parse(*tensor.record.spatial_quant_json, nullptr, false);
  if (json.is_discarded() || !json.is_object()) Fail(tensor, "spatial_quant_json is not a JSON object");
  const auto scales = json.find("equalization_scales");
  if (scales != json.end() && scales->is_array() && !scales->empty()) {
    legacy->warnings.push_back(
        "The row has equalization scales; older readers never applied them to the weights, and neither does this one.");
  }
}

// Weights that one step along axis 0 covers.
std::uint64_t RowElements(const LegacyTensor& legacy) {
  return legacy.shape.empty() || legacy.shape[0] == 0 ? 0 : legacy.num_params / legacy.shape[0];
}

void SetBlocks(std::uint64_t block, LegacyTensor* legacy) {
  legacy->scale_layout = ScaleLayout::kBlocks;
  legacy->block = block;
}

// Position groups of the time-aware layout: the tensor is cut into as many equal runs as there are time groups.
bool SetTimeGroups(const LoadedTensor& tensor, LegacyTensor* legacy) {
  if (!tensor.record.time_aware_quant_json) return false;
  const std::uint64_t groups = TimeGroups(tensor, *tensor.record.time_aware_quant_json);
  if (groups <= 1 || legacy->scales.size() != groups) return false;
  SetBlocks(std::max<std::uint64_t>(CeilDivide(legacy->num_params, std::min(groups, legacy->num_params)), 1), legacy);
  return true;
}

// Row groups of the spatial layout: group_size counts slices along axis 0.
bool SetRowGroups(const LoadedTensor& tensor, LegacyTensor* legacy) {
  if (!tensor.record.spatial_quant_json || !tensor.record.group_size || legacy->shape.empty()) return false;
  NoteSpatial(tensor, legacy);
  const std::uint64_t rows = std::min(*tensor.record.group_size, std::max<std::uint64_t>(legacy->shape[0], 1));
  if (legacy->scales.size() != CeilDivide(legacy->shape[0], rows)) return false;
  SetBlocks(rows * RowElements(*legacy), legacy);
  return true;
}

bool SetFlatGroups(const LoadedTensor& tensor, LegacyTensor* legacy) {
  if (!tensor.record.group_size || legacy->scales.size() != CeilDivide(legacy->num_params, *tensor.record.group_size)) {
    return false;
  }
  SetBlocks(*tensor.record.group_size, legacy);
  return true;
}

bool SetChannels(const LoadedTensor& tensor, LegacyTensor* legacy) {
  const std::optional<std::uint64_t> axis = tensor.record.quant_axis;
  if (!axis || *axis >= legacy->shape.size() || legacy->scales.size() != legacy->shape[*axis]) return false;
  legacy->scale_layout = ScaleLayout::kPerChannel;
  legacy->axis = *axis;
  return true;
}

void SetScales(const LoadedTensor& tensor, LegacyTensor* legacy) {
  legacy->scales = tensor.record.scales;
  legacy->zero_points = tensor.record.zero_points;
  if (!legacy->zero_points.empty() && legacy->zero_points.size() != legacy->scales.size()) {
    Fail(tensor,
         std::to_string(legacy->zero_points.size()) + " zero points for " + std::to_string(legacy->scales.size()) +
             " scales",
         ErrorCode::kShapeMismatch);
  }
  for (const std::span<const float> values : {legacy->scales, legacy->zero_points}) {
    const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
    if (bad != values.end()) Fail(tensor, "a scale or zero point is " + std::to_string(*bad));
  }
  if (legacy->num_params == 0) return;
  if (SetTimeGroups(tensor, legacy) || SetRowGroups(tensor, legacy)) return;
  if (legacy->scales.size() == 1) {
    legacy->scale_layout = ScaleLayout::kPerTensor;
  } else if (!SetFlatGroups(tensor, legacy) && !SetChannels(tensor, legacy)) {
    Fail(tensor, std::to_string(legacy->scales.size()) + " scales fit neither the shape nor the group size",
         ErrorCode::kShapeMismatch);
  }
}

// The Python writer's codes are signed. Its design also names unsigned ones ("int4_asym_group"), which a zero point
// outside the signed range gives away as well.
bool CodesAreSigned(const LoadedTensor& tensor) {
  if (tensor.layout != ParquetLayout::kV2BasePython) return false;
  if (tensor.record.quant_type.find("asym") != std::string::npos) return false;
  const auto half = static_cast<float>(1 << (tensor.record.bits - 1));
  return std::none_of(tensor.record.zero_points.begin(), tensor.record.zero_points.end(),
                      [&](float zero) { return zero > half - 1; });
}

// Codes of a tensor as numbers.
class CodeReader {
 public:
  explicit CodeReader(const LegacyTensor& tensor)
      : data_(tensor.data),
        bits_(static_cast<unsigned>(tensor.bits)),
        storage_(tensor.storage),
        is_signed_(tensor.is_signed) {}

  float operator()(std::uint64_t i) const {
    if (storage_ == CodeStorage::kByte) {
      return is_signed_ ? static_cast<float>(static_cast<std::int8_t>(data_[i])) : static_cast<float>(data_[i]);
    }
    const std::uint64_t bit = i * bits_;
    const auto in_byte = static_cast<unsigned>(bit % 8);
    const unsigned shift = storage_ == CodeStorage::kPackedLsb ? in_byte : 8 - bits_ - in_byte;
    const int code = (data_[bit / 8] >> shift) & ((1 << bits_) - 1);
    return static_cast<float>(is_signed_ ? code - (1 << (bits_ - 1)) : code);
  }

 private:
  std::span<const std::uint8_t> data_;
  unsigned bits_;
  CodeStorage storage_;
  bool is_signed_;
};

void ExpandRun(const LegacyTensor& tensor, const CodeReader& code, std::uint64_t begin, std::uint64_t end,
               std::size_t group, float* out) {
  const float scale = tensor.scales[group];
  const float zero = tensor.zero_points.empty() ? 0.0F : tensor.zero_points[group];
  for (std::uint64_t i = begin; i < end; ++i) out[i] = (code(i) - zero) * scale;
}

void ExpandBlocks(const LegacyTensor& tensor, const CodeReader& code, std::uint64_t block, float* out) {
  const std::size_t groups = tensor.scales.size();
  for (std::size_t group = 0; group < groups; ++group) {
    const std::uint64_t begin = std::min(tensor.num_params, group * block);
    const std::uint64_t end = group + 1 == groups ? tensor.num_params : std::min(tensor.num_params, begin + block);
    ExpandRun(tensor, code, begin, end, group, out);
  }
}

void ExpandChannels(const LegacyTensor& tensor, const CodeReader& code, float* out) {
  std::uint64_t inner = 1;
  for (std::size_t k = tensor.axis + 1; k < tensor.shape.size(); ++k) inner *= tensor.shape[k];
  const std::uint64_t channels = tensor.shape[tensor.axis];
  for (std::uint64_t run = 0; run < tensor.num_params / inner; ++run) {
    ExpandRun(tensor, code, run * inner, (run + 1) * inner, run % channels, out);
  }
}

}  // namespace

LegacyTensor NormalizeLegacy(const LoadedTensor& tensor, const LegacyOptions& options) {
  if (tensor.layout == ParquetLayout::kArrowQuant)
    Fail(tensor, "the tensor is not of an older layout", ErrorCode::kInvalidArgument);
  LegacyTensor legacy;
  legacy.name = tensor.record.layer_name;
  legacy.shape = tensor.record.shape;
  legacy.num_params = tensor.record.num_params;
  legacy.data = tensor.record.data;
  legacy.owner = tensor.owner;
  if (legacy.data.empty() && legacy.num_params > 0) {
    ReadCompanion(tensor, &legacy);
    return legacy;
  }
  if (IsRawQuantType(tensor.record.quant_type)) {
    SetRaw(tensor, &legacy);
    return legacy;
  }
  legacy.bits = tensor.record.bits;
  legacy.is_signed = CodesAreSigned(tensor);
  SetStorage(tensor, options, &legacy);
  if (legacy.storage != CodeStorage::kRaw) SetScales(tensor, &legacy);
  return legacy;
}

void DequantizeLegacy(const LegacyTensor& tensor, float* out) {
  if (tensor.num_params == 0) return;
  if (tensor.storage == CodeStorage::kRaw) {
    if (tensor.raw_dtype != DType::kF32) {
      ThrowTensorError("", tensor.name, "raw " + std::string(TorchName(tensor.raw_dtype)) + " values are not codes",
                       ErrorCode::kInvalidArgument, "Convert them as those of any checkpoint.");
    }
    std::memcpy(out, tensor.data.data(), tensor.num_params * sizeof(float));
    return;
  }
  const CodeReader code(tensor);
  if (tensor.scale_layout == ScaleLayout::kPerChannel) {
    ExpandChannels(tensor, code, out);
  } else if (tensor.scale_layout == ScaleLayout::kBlocks) {
    ExpandBlocks(tensor, code, tensor.block, out);
  } else {
    ExpandBlocks(tensor, code, tensor.num_params, out);
  }
}

void DequantizeLegacy(const LoadedTensor& tensor, float* out, const LegacyOptions& options) {
  DequantizeLegacy(NormalizeLegacy(tensor, options), out);
}

}  // namespace arrow_quant
