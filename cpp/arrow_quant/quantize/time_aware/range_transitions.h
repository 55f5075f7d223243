#pragma once

#include <string>
#include <vector>

#include "arrow_quant/quantize/time_aware/activation_table.h"

namespace arrow_quant {

// How far the whole range of a layer's input changes from each time group to the next: the difference of the two
// widths over the larger one, in [0, 1). One value fewer than groups.
std::vector<double> RangeJumps(const ActivationTable& table);

enum class Interpolation { kLinear, kCubic, kSigmoid };

// The table with steps between neighbouring groups: `window` timesteps, a thousandth of the time span each, on both
// sides of every boundary become groups of their own, whose ranges go over from one group's to the next's. They have
// the smaller of the two block sizes. Windows end halfway into a group.
ActivationTable SmoothBoundaries(const ActivationTable& table, int window, Interpolation interpolation);

// Which time groups the penalty on a jump weighs on: in proportion to the noise level, or by its squared sine.
enum class BetaSchedule { kLinear, kCosine };

struct JumpPenalty {
  double markov_weight = 0.1;    // of jumps between neighbours
  double entropy_weight = 0.05;  // of the distance from the mean of all groups
  double learning_rate = 0.01;
  int max_iterations = 50;
  double convergence_threshold = 1e-4;  // relative change of the objective that ends the iteration
  BetaSchedule schedule = BetaSchedule::kLinear;
};

// Factors of at least 1, one per group, that wide ranges' narrower neighbours are stretched by: projected gradient
// descent on the logarithms u of the widths, from the given v, for
//   sum (u_g - v_g)^2 + markov_weight sum beta_g (u_g+1 - u_g)^2 + entropy_weight sum (u_g - mean u)^2, u >= v.
// Ranges are never narrowed: clipping is lost in the same direction at every step of sampling.
std::vector<double> JumpPenaltyFactors(const ActivationTable& table, const JumpPenalty& penalty);

// Every range of group g stretched around its zero by factors[g].
ActivationTable Stretched(ActivationTable table, const std::vector<double>& factors);

}  // namespace arrow_quant
