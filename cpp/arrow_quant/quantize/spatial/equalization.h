#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace arrow_quant {

// How the scales e of input channels are made: the weight is divided by them and the input multiplied.
enum class EqualizationKind {
  kNone,
  kColumns,  // columns of the weight to one size (ColumnScales), of each layer alone
  kBalance,  // the geometric mean of both sides (PTQ4DiT)
  kGrid,     // from the side of the weight to that of the input in steps of .05 (DiTAS)
};

// "none", "columns", "balance", "grid".
std::string_view EqualizationKindName(EqualizationKind kind);

// Largest magnitudes by input channel, of the input in each time group and of the weights that read it.
struct ChannelMagnitudes {
  std::vector<std::vector<float>> inputs;  // [time groups][channels]
  std::vector<float> weight;               // [channels], over outputs and positions of a kernel
};

// Scales are at most 64 times their geometric mean and at least 1/64 of it, in stored precision, and the smallest is 1:
// a common factor means nothing to a layer, and scales that shrink nothing lose no digits where a module before the
// layer takes them. A channel that is zero on either side has the mean.

// Channel-wise salience balancing (Wu et al. 2024, PTQ4DiT): both sides are brought to the geometric mean of their
// magnitudes, e = sqrt(w / x). The input's magnitude is the mean over time groups with the weights of Spearman's
// rho-guided salience calibration (likewise), exp(-rho) over their sum: a group counts the more, the less its
// magnitudes go along with the weight's.
std::vector<float> BalanceScales(const ChannelMagnitudes& magnitudes);

// e = w^(1 - a) / x^a, x the largest over time groups (temporal-aggregated smoothing of Dong et al. 2025, DiTAS, in the
// form of Xiao et al. 2023, SmoothQuant, equation 4). `alpha` in [0, 1].
std::vector<float> MigrationScales(const ChannelMagnitudes& magnitudes, double alpha);

// The values of alpha that are tried: 0, .05, ..., 1.
std::vector<double> MigrationGrid();

// Spearman's rank correlation of two lists of one length; equal values share their mean rank. 0 where one is constant.
double RankCorrelation(std::span<const float> a, std::span<const float> b);

// [channels] to [channels * taps]: the same for every position of a kernel.
std::vector<float> SpreadOverTaps(std::span<const float> scales, std::int64_t taps);

}  // namespace arrow_quant
