#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/base/dtype.h"

namespace arrow_quant {

// ToFloat32 of numeric/convert.h with the kernels of the active instruction set where there are any (F16, BF16): the same
// values and errors.
void FastToFloat32(DType dtype, const std::byte* in, std::int64_t n, float* out);

}  // namespace arrow_quant
