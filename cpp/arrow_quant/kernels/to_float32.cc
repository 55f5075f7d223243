#include "arrow_quant/kernels/to_float32.h"

#include "arrow_quant/kernels/kernels.h"
#include "arrow_quant/numeric/convert.h"

namespace arrow_quant {

void FastToFloat32(DType dtype, const std::byte* in, std::int64_t n, float* out) {
  switch (dtype) {
    case DType::kF16:
      return Kernels().f16_to_f32(in, static_cast<std::size_t>(n), out);
    case DType::kBF16:
      return Kernels().bf16_to_f32(in, static_cast<std::size_t>(n), out);
    default:
      return ToFloat32(dtype, in, n, out);
  }
}

}  // namespace arrow_quant
