#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "arrow_quant/io/tensor_info.h"
#include "arrow_quant/kernels/kernels.h"
#include "arrow_quant/model/keep_list.h"
#include "arrow_quant/orchestrate/equalization_scales.h"
#include "arrow_quant/orchestrate/model_calibration.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/orchestrate/report.h"
#include "arrow_quant/orchestrate/strategy.h"
#include "arrow_quant/quantize/quantized_matrix.h"
#include "arrow_quant/quantize/time_aware/activation_table.h"
#include "arrow_quant/quantize/time_aware/output_correction.h"

namespace arrow_quant {

// A tensor after quantization: codes and grids, or nothing but the report when it is kept.
struct TensorOutcome {
  QuantizedMatrix matrix;
  ErrorSums sums;
  TensorReport report;
  ActivationTable activations = {};  // empty: no static ranges
  OutputCorrection correction = {};  // empty: outputs are left as they are
  std::vector<double> correction_boundaries = {};
  // Of a kept tensor that cannot stay as the source has it: its bytes, of the dtype in the report.
  std::vector<std::byte> replacement = {};
};

// Reads `count` matrix rows from `begin` of a tensor's little-endian bytes as float32, whatever its dtype and output
// axis, into out [count, cols].
void ReadMatrixRows(const TensorInfo& info, std::span<const std::byte> bytes, const MatrixShape& matrix,
                    std::int64_t begin, std::int64_t count, float* out);

// A tensor of a component and what is to become of it.
struct TensorJob {
  const TensorInfo& info;
  std::span<const std::byte> bytes;
  const TensorDecision& decision;
  int bits = 0;
  std::string component;
};

// What all tensors of a run share.
struct TensorContext {
  const ModelOptions& options;
  const Strategy& strategy;
  const ModelCalibration& calibration;
  EqualizationSource* equalization = nullptr;  // null: no scales are tried
};

// Quantizes one tensor: with error feedback where the strategy wants it and activations are at hand, else to the
// nearest values; with the ladder bits -> 4 -> 8 -> kept where a layer misses min_accuracy. Every step back is in the
// report. `progress` is called with the number of weights done so far, from any thread. Throws Error kQuantization for
// NaN or Inf, kValidation under fail_fast, kCancelled.
TensorOutcome QuantizeTensor(const TensorJob& job, const TensorContext& context,
                             const std::function<void(std::int64_t)>& progress, const std::stop_token& stop);

// What each width would do to a tensor that is to be quantized, by what QuantizeTensor would try first, without the
// ladder: encoded bytes with grids and time tables, relative output error (of the weights without activations) and its
// cosine. The tables are those of the last width, whose size hardly depends on it. Empty for a weight with NaN or Inf.
// Throws Error kCancelled.
std::vector<WidthFigures> MeasureWidths(const TensorJob& job, const TensorContext& context, std::span<const int> widths,
                                        const std::stop_token& stop);

// Figures of a sum of errors: cosine 1 and SQNR 200 dB when nothing is lost.
double Cosine(const ErrorSums& sums);
double SqnrDb(const ErrorSums& sums);

}  // namespace arrow_quant
