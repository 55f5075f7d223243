#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace arrow_quant {

// One step of the fallback ladder of one layer: to more bits, or to a method that needs less.
struct Fallback {
  std::string layer;
  int from_bits = 0;
  int to_bits = 0;  // 16: kept as it is
  std::string from_method = {};
  std::string to_method = {};
  std::string cause = {};
  double cosine_before = 0;  // of the figure that decides: outputs where there are activations, else weights
  double cosine_after = 0;   // 1 when kept
};

// Output quality of a layer in one time group, on held-out rows.
struct TimeGroupQuality {
  double from = 0;  // the group is [from, to)
  double to = 0;
  std::int64_t rows = 0;
  double cosine = 1;
  double sqnr_db = 0;
};

// Static ranges for the input of a layer.
struct ActivationReport {
  std::string method;               // "time_aware", "shared"; empty: none were made
  std::vector<std::string> ranges;  // per time group, the method that found its range
  // Output error by activations in 8-bit codes over the output energy, on held-out rows; negative: there were none.
  double error = -1;
  double shared_error = -1;    // with one range for all times and channels
  double bits_per_weight = 0;  // of the tables, float32, over the weights of the layer
  // 1 less the mean relative jump of the range between neighbouring time groups, and the jumps above the threshold;
  // negative: not asked for.
  double smoothness = -1;
  std::int64_t jumps = 0;
};

// What is done to the input channels of a layer before rounding.
struct SpatialReport {
  bool wanted = false;       // by the strategy
  bool demanded = false;     // asked for by name
  std::string equalization;  // "none", "columns", "balance", "grid"; empty: nothing was compared
  double alpha = 0;          // of "grid"
  bool shift = false;        // means are taken from the input
  bool rotation = false;
  // Relative output errors with this and without any of it, weights and 8-bit activations together, before refinement,
  // on held-out rows; negative: not compared.
  double error = -1;
  double plain_error = -1;
  std::string producer;  // module that yields the input and can take the scales; empty: they are applied at run time
};

// Gains and biases of a layer's outputs per time group.
struct CorrectionReport {
  std::string kind;  // "none", "bias", "gain_and_bias"; empty: not tried
  // Per time group: squared error of the outputs on the held-out rows that judged, without and with the correction.
  std::vector<double> error_before;
  std::vector<double> error_after;
  double bits_per_weight = 0;  // what it costs
};

// What the errors of earlier layers do to a layer, where it was calibrated behind them: relative errors against the
// outputs of the float model, on held-out rows; negative: not known.
struct TargetReport {
  bool corrected = false;  // the rounded target makes up for them
  double inherited = -1;   // of the unquantized layer on the inputs that earlier layers leave
  double error = -1;       // of the quantized layer on them
};

// What became of one tensor.
struct TensorReport {
  std::string name;
  std::string component;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string role;
  bool quantized = false;
  int bits = 0;
  std::int64_t group_size = 0;
  std::int64_t tail = 0;       // columns in the last group of a row
  std::string method;          // "ldlq", "min_max", "fitted"; "kept"
  std::string grid;            // "affine", "residual_binary"
  bool column_scales = false;  // input channels were brought to one size before rounding
  std::string reason;          // why it was kept
  double cosine = 1;           // of the weights
  double sqnr_db = 0;          // of the weights, capped at 200; 200 when kept
  bool calibrated = false;     // the figures of outputs are known
  double output_cosine = 1;    // on held-out rows
  double output_sqnr_db = 0;
  std::vector<TimeGroupQuality> time_groups;
  double dampening = 0;              // that the rounding needed
  std::int64_t non_finite_rows = 0;  // of activations, left out
  std::int64_t constant_groups = 0;
  std::int64_t num_params = 0;
  std::int64_t source_bytes = 0;
  std::int64_t stored_bytes = 0;  // of codes and grids before compression
  ActivationReport activations;
  SpatialReport spatial;
  CorrectionReport correction;
  TargetReport target;
  std::vector<Fallback> fallbacks;
};

// A tensor that is not in the output because another holds what it said.
struct MergedTensor {
  std::string name;
  std::string component;
  std::string into;
};

// What a width does to a layer.
struct WidthFigures {
  int bits = 0;
  std::int64_t bytes = 0;  // on disk, with grids, time tables and what its row takes
  double error = 0;        // of its outputs, squared and relative, on held-out rows; of the weights without activations
  double cosine = 1;       // of the same
};

// The widths that mixed precision had for a layer.
struct LayerWidths {
  std::string name;
  std::string component;
  int bits = 0;                      // chosen; 16: kept
  double sensitivity = 1;            // what a relative error of the layer's output does to the model's
  std::vector<WidthFigures> widths;  // measured, and 16
};

// One width for all layers that mixed precision may choose for.
struct UniformFigures {
  int bits = 0;
  std::int64_t bytes = 0;
  double error = 0;
};

// How mixed precision has chosen.
struct PrecisionReport {
  std::int64_t budget_bytes = 0;
  double target_error = 0;  // 0: none
  bool sensitivity_measured = false;
  std::int64_t kept_bytes = 0;      // of tensors that have no choice
  std::int64_t smallest_bytes = 0;  // that any choice has
  std::int64_t expected_bytes = 0;  // of the model with the chosen bits
  double error = 0;                 // expected: over all layers, sensitivity times error
  double greedy_error = 0;          // of the greedy choice within the same size
  std::vector<UniformFigures> uniform;
  std::vector<LayerWidths> layers;
};

// What became of a model. The result dictionary of the Python API is made from it under the same names.
struct ModelResult {
  std::string quantized_path;
  std::string modality;
  std::string modality_reason;
  std::string source_kind;
  int bit_width = 0;
  std::int64_t group_size = 0;
  std::string calibration = "none";  // "activations", "synthetic"
  std::string strategy;
  std::int64_t source_bytes = 0;   // of all weights
  std::int64_t parquet_bytes = 0;  // on disk
  std::int64_t num_params = 0;
  double cosine = 1;  // over all quantized weights together
  double sqnr_db = 0;
  std::int64_t resumed_tensors = 0;  // that an interrupted run had finished
  double seconds = 0;
  double peak_memory_mb = 0;
  std::vector<TensorReport> tensors;
  std::vector<MergedTensor> merged;  // scales of 8-bit float weights, applied to them
  std::vector<std::string> warnings;
  std::optional<PrecisionReport> precision;

  std::string method() const;        // of most quantized layers; "none" without one
  double compression_ratio() const;  // bytes of the source's weights / bytes on disk; 0 without any
  double bits_per_weight() const;    // on disk, all parameters counted; 0 without any
  double model_size_mb() const;      // on disk, 1 MB being 1,000,000 bytes
  double source_size_mb() const;
  std::int64_t layers_quantized() const;
  // Layers that did not get what was asked for, kept ones included. That no transform helps counts only where one was
  // asked for by name.
  std::int64_t layers_fallen_back() const;
  std::map<std::string, double> fallback_rate() const;  // by method: layers that left it / layers that tried it
};

// As the result dictionary of the Python API.
std::string ToJson(const ModelResult& result);
std::string ToJson(const ActivationReport& report);
std::string ToJson(const CorrectionReport& report);
// What a tensor stepped back from, as a JSON list.
std::string FallbacksJson(const TensorReport& report);
// The quality figures of one tensor, for its row in the file.
std::string ToJson(const TensorReport& report);

}  // namespace arrow_quant
