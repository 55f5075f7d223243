#include "arrow_quant/kernels/vec_avx512-inl.h"
// The algorithms, in terms of the vectors above.
#include "arrow_quant/kernels/all-inl.h"

namespace arrow_quant {

const KernelTable kAvx512Kernels = MakeTable();

}  // namespace arrow_quant
