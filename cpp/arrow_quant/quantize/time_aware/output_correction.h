#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/matrix_view.h"

namespace arrow_quant {

// What a correction may change of an output channel in a time group.
enum class CorrectionKind { kNone, kBias, kGainAndBias };

// "none", "bias", "gain_and_bias".
std::string_view CorrectionKindName(CorrectionKind kind);

// Gain and bias of each output channel in each time group: y = gain * (Q x) + bias in place of W x, Q the quantized W.
struct OutputCorrection {
  std::vector<float> gains;   // [groups, rows]; empty: ones
  std::vector<float> biases;  // [groups, rows]

  bool empty() const { return biases.empty(); }
};

// Inputs of one time group. One half of the held-out rows fits gains, the other judges.
struct CorrectionSample {
  std::vector<float> mean;          // [cols] of all rows seen; empty when none was
  AlignedVector<float> fit_rows;    // [rows, cols]
  AlignedVector<float> judge_rows;  // [rows, cols]
};

struct CorrectionChoice {
  CorrectionKind kind = CorrectionKind::kNone;
  OutputCorrection correction;
  std::vector<double> error_before;  // per time group: squared output error on the judging rows
  std::vector<double> error_after;   // never more than before
  double bits_per_weight = 0;        // what the correction costs on disk
};

// The correction that pays: of bias alone, gain and bias, and none, the one with the least error once the error of each
// is raised by what its bits would have won as bits of the weight, a factor of 4 each. Biases make the mean output of a
// group exact (Nagel et al. 2019, "Data-Free Quantization through Weight Equalization and Bias Correction", eq. 18, per
// time group); gains are least squares per row, <Wx, Qx> / <Qx, Qx> around the means, shrunk towards 1. A group whose
// error does not fall keeps gain 1 and bias 0. weight and quantized are [rows, cols].
CorrectionChoice ChooseCorrection(MatrixView<const float> weight, MatrixView<const float> quantized,
                                  const std::vector<CorrectionSample>& samples);

}  // namespace arrow_quant
