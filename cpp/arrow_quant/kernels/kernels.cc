#include "arrow_quant/kernels/kernels.h"

namespace arrow_quant {

const KernelTable& KernelsFor(Isa isa) {
#if defined(ARROW_QUANT_X86)
  switch (isa) {
    case Isa::kAvx512:
      return kAvx512Kernels;
    case Isa::kAvx2:
      return kAvx2Kernels;
    case Isa::kScalar:
      break;
  }
#else
  static_cast<void>(isa);
#endif
  return kScalarKernels;
}

const KernelTable& Kernels() {
  static const KernelTable& table = KernelsFor(ActiveIsa());
  return table;
}

}  // namespace arrow_quant
