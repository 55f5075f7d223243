#include "arrow_quant/base/cpu_isa.h"

#include <array>
#include <cstdlib>
#include <string>

#include "arrow_quant/base/error.h"

#if defined(ARROW_QUANT_X86)
#include <cpuid.h>
#endif

namespace arrow_quant {
namespace {

#if defined(ARROW_QUANT_X86)
// __builtin_cpu_supports knows "f16c" in newer compilers only.
bool HasF16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

bool CpuRuns(Isa isa) {
#if defined(ARROW_QUANT_X86)
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && HasF16c();
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && HasF16c();
  }
  return false;
#else
  return isa == Isa::kScalar;
#endif
}

constexpr std::array kAllIsas = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512};

Isa Choose() {
  const char* forced = std::getenv("ARROW_QUANT_ISA");
  if (forced == nullptr || *forced == '\0') return SupportedIsas().back();
  for (Isa isa : kAllIsas) {
    if (IsaName(isa) != forced) continue;
    if (CpuRuns(isa)) return isa;
    throw Error(ErrorCode::kInvalidArgument, std::string("ARROW_QUANT_ISA=") + forced + " is not supported by this CPU",
                {.remedy = "Unset ARROW_QUANT_ISA to use the best instruction set that it has."});
  }
  throw Error(ErrorCode::kInvalidArgument, std::string("ARROW_QUANT_ISA=") + forced + " is not an instruction set",
              {.remedy = "Use scalar, avx2 or avx512."});
}

}  // namespace

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "scalar";
}

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> supported;
  for (Isa isa : kAllIsas) {
    if (CpuRuns(isa)) supported.push_back(isa);
  }
  return supported;
}

Isa ActiveIsa() {
  static const Isa isa = Choose();
  return isa;
}

}  // namespace arrow_quant
