#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace arrow_quant {

// Smoothness of the time-aware parameters across neighbouring time groups. Ranges: the field table in config_table.cc.
struct ThermodynamicValidation {
  bool enabled = false;
  double smoothness_threshold = 0.3;
  bool log_violations = true;
};

struct BoundarySmoothing {
  bool enabled = false;
  int window_size = 5;
  std::string interpolation = "linear";
};

struct TransitionOptimization {
  bool enabled = false;
  double markov_weight = 0.1;
  double entropy_weight = 0.05;
  double learning_rate = 0.01;
  int max_iterations = 50;
  double convergence_threshold = 1e-4;
  std::string beta_schedule = "linear";
};

struct ThermodynamicConfig {
  ThermodynamicValidation validation = {};
  BoundarySmoothing boundary_smoothing = {};
  TransitionOptimization transition_optimization = {};
};

// Bits of single layers, as (name or regular expression, bits), in the order in which they are tried.
using LayerBitWidths = std::vector<std::pair<std::string, int>>;

// "uniform", "sensitivity", or one weight per time group.
using TimeWeighting = std::variant<std::string, std::vector<double>>;

// What a quantization run does. A plain value: set the members and call Validate(), or take it from a profile or JSON.
// The initializers are the defaults of the profile "local"; config_profiles.cc holds what the other profiles change,
// and config_table.cc the name, range and meaning of every member (docs/configuration.md is generated from it). One MB
// is 1,000,000 bytes.
struct DiffusionQuantConfig {
  // What is made.
  std::string deployment_profile = "local";
  std::optional<std::string> modality = {};
  int bit_width = 4;
  std::int64_t group_size = 128;
  std::string grid = "auto";
  std::string fit = "auto";
  double min_accuracy = 0.85;
  std::int64_t seed = 0;

  // Size and mixed precision.
  std::optional<double> target_size_mb = 200.0;
  std::optional<double> target_model_size_mb = {};
  std::optional<double> target_error = {};
  bool enable_mixed_precision = false;
  LayerBitWidths layer_bit_widths = {};
  std::optional<std::string> from_plan = {};

  // Which tensors.
  std::vector<std::string> components = {};
  std::optional<std::string> variant = {};
  std::vector<std::string> keep_patterns = {};
  std::vector<std::string> quantize_patterns = {};
  std::vector<std::string> transposed_patterns = {};
  bool skip_sensitive_layers = false;
  std::vector<std::string> sensitive_layer_names = {};
  std::vector<std::string> sensitive_layer_patterns = {};
  std::string on_nonfinite = "error";

  // Rounding.
  std::string strategy = "auto";
  std::string rounding = "auto";
  std::string rounding_order = "activation";
  int rounding_rounds = 2;
  double dampening = 0.01;

  // Calibration.
  std::string calibration = "auto";
  int calibration_samples = 128;
  int calibration_stages = 1;
  bool allow_remote_code = false;
  std::string objective = "trajectory";

  // Time-aware quantization.
  bool enable_time_aware = true;
  std::string strategy_time_aware = "auto";
  int num_time_groups = 10;
  std::string time_grouping = "uniform";
  TimeWeighting time_weighting = "uniform";
  int activation_block_early = 256;
  int activation_block_late = 64;
  std::string activation_range = "auto";
  int activation_bits = 0;

  // Spatial quantization.
  bool enable_spatial = true;
  std::string strategy_spatial = "auto";
  std::string equalization = "auto";
  std::string smoothing = "auto";
  std::string hadamard = "none";

  // Fallback.
  bool fallback = true;
  bool fail_fast = false;
  bool strict = false;

  // Resources.
  int num_threads = 0;
  std::optional<double> max_memory_limit_mb = {};

  ThermodynamicConfig thermodynamic = {};

  // Keys of older configurations. They are accepted and checked, and change nothing.
  bool enable_streaming = true;
  bool enable_memory_aware_scheduling = true;
  bool enable_entropy_adaptation = false;
  bool use_arrow = true;
  bool enable_simd = true;
  int simd_threshold = 128;

  // The defaults of "edge", "local", "cloud" or "base" (any model, no diffusion logic). Throws kConfiguration for any
  // other name.
  static DiffusionQuantConfig FromProfile(std::string_view name);

  // Reads one JSON object; nested keys as objects or as "a.b.c". Keys that are left out take the defaults of `profile`
  // or, when that is empty, of the object's own deployment_profile ("local" without one). The result is valid.
  // Throws kConfiguration for text that is not a JSON object or is deeper than a configuration is, a key given twice,
  // an unknown key (naming the nearest one), and a value of the wrong type or range (naming key, value and what is
  // allowed).
  static DiffusionQuantConfig FromJson(std::string_view text, std::string_view profile = {});

  // All keys in the order of the field table, nested ones as objects; equal configurations give equal text.
  // Throws as Validate does.
  std::string ToJson() const;

  // Throws kConfiguration for the first value out of its range, and for values that contradict each other.
  void Validate() const;

  // The size budget in MB: target_model_size_mb, the older name, where it is given, else target_size_mb.
  std::optional<double> SizeBudgetMb() const { return target_model_size_mb ? target_model_size_mb : target_size_mb; }
};

}  // namespace arrow_quant
