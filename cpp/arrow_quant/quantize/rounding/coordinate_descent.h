#pragma once

#include "arrow_quant/quantize/rounding/panel.h"

namespace arrow_quant {

// One round of refinement of a panel, group by group: refits the group's grids in the metric of H, then sets each of
// its columns in turn to the level that is best while all others stay,
//   q_k <- nearest to W_k - E_k + (E H)_k / H_kk
// (Behdin et al. 2023, "QuantEase", update (6); Nair and Suggala 2024, "CDQuant"). (E H)_k comes from one GEMM per
// group with the errors as they are, so nothing drifts. Never increases tr(E H E^T).
void RefinePanel(Panel& panel, const RoundingProblem& problem);

}  // namespace arrow_quant
