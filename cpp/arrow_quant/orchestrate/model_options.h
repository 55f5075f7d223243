#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arrow_quant/model/modality.h"
#include "arrow_quant/orchestrate/config.h"
#include "arrow_quant/orchestrate/saved_plan.h"
#include "arrow_quant/quantize/affine_grid.h"
#include "arrow_quant/quantize/rounding/rounding.h"

namespace arrow_quant {

// What to do with a tensor that holds NaN or Inf.
enum class OnNonFinite { kError, kKeep };

// Static ranges for the inputs of layers.
struct ActivationOptions {
  bool enable_time_aware = true;
  std::string strategy_time_aware = "auto";  // "never": one range for all times
  int time_groups = 10;                      // 1: one range for all times and channels
  std::string grouping = "uniform";          // "auto"
  std::int64_t block_early = 256;            // input channels in a block, of the noisier half of the groups
  std::int64_t block_late = 64;              // of the others
  std::string range = "auto";                // "min_max", "percentile", "mse"
  int bits = 0;                              // that the model is meant to run with; 0: floating point
  ThermodynamicConfig transitions = {};      // between neighbouring groups
};

// Transforms of the inputs of layers, as in the configuration.
struct SpatialOptions {
  bool enabled = true;
  std::string strategy = "auto";      // "always", "never"
  std::string equalization = "auto";  // "none", "balance", "grid"
  std::string smoothing = "auto";     // "none", "shift"
  std::string hadamard = "none";      // "auto", "block"
  // By component and tensor: the module that yields the layer's input and can take its scales.
  std::map<std::string, std::map<std::string, std::string>> producers;
};

// How much each time group counts in the second moments that weights are rounded by.
struct TimeWeightOptions {
  bool sensitivity = false;   // by what was measured
  std::vector<double> given;  // one per time group; empty: not given
  bool detail = false;        // favour the least noisy groups
};

// Bits by layer for the least error within a size.
struct PrecisionOptions {
  bool enabled = false;
  std::optional<double> size_mb;       // of the weights on disk; neither this nor an error: as large as bit_width
  std::optional<double> target_error;  // the smallest model with no more than this
  std::vector<std::string> protect;    // patterns of layers that get 8 bits at least
  std::map<std::string, std::map<std::string, double>> sensitivity;  // by component and tensor; empty: not measured
  bool strict = false;                                               // a size that cannot be had is an error
};

// How one model is quantized.
struct ModelOptions {
  int bit_width = 4;
  std::int64_t group_size = 128;
  // What the strategy is made from: see the configuration.
  std::string strategy = "auto";
  std::string rounding = "auto";  // "nearest", "ldlq"
  std::string grid = "auto";      // "affine", "residual_binary"
  std::string fit = "auto";       // "min_max", "fitted"
  ColumnOrder order = ColumnOrder::kActivation;
  int rounds = 2;
  double dampening = 0.01;
  bool diffusion = true;  // false: any model, no modality asked for
  std::optional<Modality> modality;
  double min_accuracy = 0;  // least cosine of a layer, in [0, 1]: of its outputs with activations, else of its weights
  bool fallback = true;     // try more bits where a layer misses min_accuracy
  bool fail_fast = false;   // raise at the first layer that misses it
  OnNonFinite on_nonfinite = OnNonFinite::kError;
  ActivationOptions activations;
  SpatialOptions spatial;
  TimeWeightOptions time_weights;
  PrecisionOptions precision;
  std::shared_ptr<const SavedPlan> plan;  // says bits, group size and method of every tensor
  int num_threads = 0;                    // 0: all CPUs of this process
  bool overwrite = false;
  bool resume = true;  // continue an interrupted run of the same options and source; false: begin anew
  // Bits of single layers by exact name or regular expression, tried in this order; 16 keeps the layer.
  std::vector<std::pair<std::string, int>> layer_bit_widths;
  std::vector<std::string> keep_patterns;
  std::vector<std::string> quantize_patterns;
  std::vector<std::string> transposed_patterns;
  std::vector<std::string> components;
  std::optional<std::string> variant;
};

// From the JSON of a DiffusionQuantConfig and the keys `diffusion`, `overwrite` and `resume`. Throws Error
// kConfiguration naming key and value, also for values that ask for what this version does not do.
ModelOptions ModelOptionsFromJson(std::string_view text);

// The same from a configuration, with `diffusion`, `overwrite` and `resume` at their defaults. Throws as
// ModelOptionsFromJson and DiffusionQuantConfig::Validate do.
ModelOptions ModelOptionsFromConfig(const DiffusionQuantConfig& config);

}  // namespace arrow_quant
