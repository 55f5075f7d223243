#include "arrow_quant/kernels/vec_avx2-inl.h"
// The algorithms, in terms of the vectors above.
#include "arrow_quant/kernels/all-inl.h"

namespace arrow_quant {

const KernelTable kAvx2Kernels = MakeTable();

}  // namespace arrow_quant
