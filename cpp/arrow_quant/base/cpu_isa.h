#pragma once

#include <string_view>
#include <vector>

namespace arrow_quant {

// Instruction sets that the kernels are compiled for, from the least to the most capable.
enum class Isa { kScalar, kAvx2, kAvx512 };

// "scalar", "avx2", "avx512".
std::string_view IsaName(Isa isa);

// The instruction sets that this CPU runs and this build contains; kScalar always.
std::vector<Isa> SupportedIsas();

// The best supported one, or the one that the environment variable ARROW_QUANT_ISA names. Read once.
// Throws Error kInvalidArgument when that name is unknown or the CPU lacks it.
Isa ActiveIsa();

}  // namespace arrow_quant
