#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace arrow_quant {

// Element types of a checkpoint. Names are those of the safetensors format.
enum class DType {
  kBool,
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kU64,
  kI64,
  kF8E4M3,
  kF8E5M2,
  kF16,
  kBF16,
  kF32,
  kF64,
  kC64,
};

// Bytes of one element.
std::size_t ByteSize(DType dtype);

// True for the real floating-point types, the only ones that are quantized.
bool IsFloat(DType dtype);

// "F32", "BF16", ... as in a safetensors header.
std::string_view SafetensorsName(DType dtype);

// Inverse of SafetensorsName; nothing for an unknown name.
std::optional<DType> DTypeFromSafetensors(std::string_view name);

// "float32", "bfloat16", ... as torch names them (without the "torch." prefix).
std::string_view TorchName(DType dtype);

// Inverse of TorchName; accepts a "torch." prefix.
std::optional<DType> DTypeFromTorch(std::string_view name);

}  // namespace arrow_quant
