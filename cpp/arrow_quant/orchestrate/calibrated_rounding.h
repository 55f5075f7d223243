#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/matrix_view.h"
#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/kernels/kernels.h"
#include "arrow_quant/orchestrate/equalization_scales.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/orchestrate/report.h"
#include "arrow_quant/orchestrate/strategy.h"
#include "arrow_quant/quantize/quantized_matrix.h"
#include "arrow_quant/quantize/rounding/measure_output.h"
#include "arrow_quant/quantize/rounding/rounding.h"
#include "arrow_quant/quantize/spatial/equalization.h"

namespace arrow_quant {

// Output errors of a layer by time group.
struct OutputQuality {
  std::vector<OutputSums> groups;  // per time group, all zero where no row was seen
  std::vector<std::int64_t> rows;  // held-out rows behind each; 0 everywhere when `held_out` is false
  OutputSums total;
  bool held_out = false;  // false: there were no held-out rows, so the second moment itself was used
};

// A way to round: a grid, and what is done to the columns first.
struct RoundingCandidate {
  GridKind grid = GridKind::kAffine;
  EqualizationKind equalization = EqualizationKind::kNone;
  std::vector<float> scales = {};                   // [cols], of kBalance and kGrid
  double alpha = 0;                                 // of kGrid
  std::optional<std::uint64_t> rotation_seed = {};  // none: no rotation

  bool plain() const { return equalization == EqualizationKind::kNone && !rotation_seed; }
};

// How integer activations count when ways to round are compared.
struct ActivationJudge {
  // What they cost the outputs of a layer with such a matrix, relative to their energy; empty: nothing.
  std::function<double(const QuantizedMatrix&)> cost = {};
  // The weight is stored once, for float activations and for integer ones. Where the model is not meant for the latter,
  // a way whose error of the weight alone exceeds the least one by more than kWeightErrorSlack of both errors is not
  // taken for what it does to the activations.
  bool weights_first = true;
};
inline constexpr double kWeightErrorSlack = 0.05;

struct CalibratedRounding {
  QuantizedMatrix matrix;
  ErrorSums sums;            // of the weights
  OutputQuality quality;     // against the outputs of what was rounded
  TargetReport target = {};  // where the inputs have those of a float model beside them
  AlignedVector<float> corrected =
      {};                 // what was rounded in place of the weight [rows, cols]; empty: the weight itself
  double dampening = 0;   // the largest that was used
  bool diagonal = false;  // the second moment was of no use but for its diagonal
  RoundingCandidate way = {};
  // Relative output errors before refinement, those of activations counted where they are known: of this way and of
  // the best one without a transform; negative where there was nothing to compare.
  double compared_error = -1;
  double plain_error = -1;
};

// Relative output error ee / ww, each time group counting as it does in the second moment (empty: alike); 0 when
// nothing is lost. What ways to round are compared by.
double RelativeError(const OutputQuality& quality, const std::vector<double>& time_weights);

// Empty when the statistics fit a weight [rows, cols], else a sentence that says why not.
std::string Unfit(const LayerInputs& inputs, std::int64_t rows, std::int64_t cols);

// What `quantized` does to the outputs of `weight`, both [rows, cols], on the held-out rows of every time group.
OutputQuality MeasureQuality(MatrixView<const float> weight, MatrixView<const float> quantized,
                             const LayerInputs& inputs, int num_threads);
// The same against the outputs that the float model has; held_out is false where its rows are not known.
OutputQuality MeasureFloatQuality(MatrixView<const float> weight, MatrixView<const float> quantized,
                                  const LayerInputs& inputs, int num_threads);

// Those that a run compares. `rotation_seed` is of rotations, where the strategy wants them. Of the strategy's
// transforms a layer without scales or with several inputs (groups of a convolution would each need their own) has
// none.
std::vector<RoundingCandidate> CandidatesOf(const Strategy& strategy, int bits, const LayerInputs& inputs,
                                            const EqualizationScales& scales, std::uint64_t rotation_seed);
RoundingOptions RoundingOptionsOf(const ModelOptions& options, int bits);

// Rounds with error feedback, an input of a grouped convolution after the other. Of several candidates the one with the
// smallest output error on held-out rows before refinement is taken; where the judge has a cost, the smallest sum of
// both, each the mean over time groups. Where the inputs have those of a float model beside them, each candidate is
// tried with the weight and with the corrected target (CorrectTarget), and compared by the error against the float
// model's outputs. `inputs` must fit. Throws as RoundWithHessian.
CalibratedRounding RoundCalibrated(MatrixView<const float> weight, const LayerInputs& inputs,
                                   std::span<const RoundingCandidate> candidates,
                                   const std::vector<double>& time_weights, const RoundingOptions& options,
                                   const std::stop_token& stop, const ActivationJudge& judge = {});

}  // namespace arrow_quant
