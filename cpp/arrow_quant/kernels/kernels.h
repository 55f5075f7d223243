#pragma once

#include "arrow_quant/base/cpu_isa.h"
#include "arrow_quant/kernels/kernel_table.h"

namespace arrow_quant {

// The table of one instruction set; the CPU must support it.
const KernelTable& KernelsFor(Isa isa);

// The table of ActiveIsa(), chosen once.
const KernelTable& Kernels();

}  // namespace arrow_quant
