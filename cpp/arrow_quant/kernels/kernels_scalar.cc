#include "arrow_quant/kernels/vec_scalar-inl.h"
// The algorithms, in terms of the vectors above.
#include "arrow_quant/kernels/all-inl.h"

namespace arrow_quant {

const KernelTable kScalarKernels = MakeTable();

}  // namespace arrow_quant
