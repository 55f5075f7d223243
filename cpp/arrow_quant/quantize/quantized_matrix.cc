#include "arrow_quant/quantize/quantized_matrix.h"

namespace arrow_quant {

std::string_view GridKindName(GridKind kind) { return kind == GridKind::kAffine ? "affine" : "residual_binary"; }

}  // namespace arrow_quant
