#include "arrow_quant/base/dtype.h"

#include <array>

namespace arrow_quant {
namespace {

struct Row {
  DType dtype;
  std::size_t bytes;
  bool is_float;
  std::string_view safetensors;
  std::string_view torch;
};

constexpr std::array kRows = {
    Row{DType::kBool, 1, false, "BOOL", "bool"},
    Row{DType::kU8, 1, false, "U8", "uint8"},
    Row{DType::kI8, 1, false, "I8", "int8"},
    Row{DType::kU16, 2, false, "U16", "uint16"},
    Row{DType::kI16, 2, false, "I16", "int16"},
    Row{DType::kU32, 4, false, "U32", "uint32"},
    Row{DType::kI32, 4, false, "I32", "int32"},
    Row{DType::kU64, 8, false, "U64", "uint64"},
    Row{DType::kI64, 8, false, "I64", "int64"},
    Row{DType::kF8E4M3, 1, true, "F8_E4M3", "float8_e4m3fn"},
    Row{DType::kF8E5M2, 1, true, "F8_E5M2", "float8_e5m2"},
    Row{DType::kF16, 2, true, "F16", "float16"},
    Row{DType::kBF16, 2, true, "BF16", "bfloat16"},
    Row{DType::kF32, 4, true, "F32", "float32"},
    Row{DType::kF64, 8, true, "F64", "float64"},
    Row{DType::kC64, 8, false, "C64", "complex64"},
};

const Row& Find(DType dtype) { return kRows[static_cast<std::size_t>(dtype)]; }

}  // namespace

std::size_t ByteSize(DType dtype) { return Find(dtype).bytes; }

bool IsFloat(DType dtype) { return Find(dtype).is_float; }

std::string_view SafetensorsName(DType dtype) { return Find(dtype).safetensors; }

std::string_view TorchName(DType dtype) { return Find(dtype).torch; }

std::optional<DType> DTypeFromSafetensors(std::string_view name) {
  for (const Row& row : kRows) {
    if (row.safetensors == name) return row.dtype;
  }
  return std::nullopt;
}

std::optional<DType> DTypeFromTorch(std::string_view name) {
  constexpr std::string_view kPrefix = "torch.";
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  for (const Row& row : kRows) {
    if (row.torch == name) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace arrow_quant
