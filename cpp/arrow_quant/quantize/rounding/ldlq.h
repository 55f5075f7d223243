#pragma once

#include "arrow_quant/quantize/rounding/panel.h"

namespace arrow_quant {

// Rounds the columns of the panel in the order of problem.visits, each to the nearest level of
//   target_k = W_k + sum over j < k of E_j A_jk,   H = A D A^T
// (Chee et al. 2023, "QuIP: 2-bit quantization of large language models with guarantees", LDLQ). Left-looking: one GEMM
// per block of columns gathers the errors of all before it. With problem.compensated_grids each group's grid is first
// fitted on W_b + E_<b A_<b,b A_bb^-1, what is left to represent when all earlier errors are made good.
void RoundLdlq(Panel& panel, const RoundingProblem& problem);

}  // namespace arrow_quant
