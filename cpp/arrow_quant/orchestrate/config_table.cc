// The field table: name, range and meaning of every configuration key.

#include "arrow_quant/orchestrate/config_fields.h"

namespace arrow_quant {
namespace {

using Config = DiffusionQuantConfig;
using Thermo = ThermodynamicConfig;

template <auto... kPath>
auto& Member(Config& config) {
  return (config.*....*kPath);
}

FieldLimits Any() { return {}; }
FieldLimits OneOf(std::vector<std::string_view> words) { return {.words = std::move(words)}; }
FieldLimits Numbers(std::vector<int> numbers, std::string_view note = {}) {
  return {.numbers = std::move(numbers), .note = note};
}
FieldLimits AtLeast(double minimum) { return {.minimum = minimum}; }
FieldLimits Above(double minimum) { return {.minimum = minimum, .above_minimum = true}; }
FieldLimits Between(double minimum, double maximum) { return {.minimum = minimum, .maximum = maximum}; }
FieldLimits UpTo(double maximum) { return {.minimum = 0, .maximum = maximum, .above_minimum = true}; }
FieldLimits Patterns() { return {.pattern = true}; }

constexpr std::string_view kModel = "Model";
constexpr std::string_view kSize = "Size and mixed precision";
constexpr std::string_view kTensors = "Choice of tensors";
constexpr std::string_view kRounding = "Rounding";
constexpr std::string_view kCalibration = "Calibration";
constexpr std::string_view kTime = "Time-aware quantization";
constexpr std::string_view kSpatial = "Spatial quantization";
constexpr std::string_view kFallback = "Fallback";
constexpr std::string_view kResources = "Resources";
constexpr std::string_view kThermo = "Temporal smoothness";
constexpr std::string_view kOld = "Accepted without effect";

std::vector<ConfigField> ModelFields() {
  return {
      {"deployment_profile", kModel, &Member<&Config::deployment_profile>, OneOf({"edge", "local", "cloud"}),
       "Where the model will run; keys that are left out take this profile's defaults."},
      {"modality", kModel, &Member<&Config::modality>, OneOf({"text", "code", "image", "audio"}),
       "What the model makes; null finds it out from the model's files."},
      {"bit_width", kModel, &Member<&Config::bit_width>, Numbers({2, 3, 4, 8}), "Bits of a quantized weight."},
      {"group_size", kModel, &Member<&Config::group_size>,
       Numbers({16, 32, 64, 128, 256, -1}, "-1 is one group per row"),
       "Input channels that share a scale and a zero point; a shorter last group is normal, -1 makes one group per "
       "row."},
      {"grid", kModel, &Member<&Config::grid>, OneOf({"auto", "affine", "residual_binary"}),
       "Values that codes stand for: evenly spaced, or two sums of signs (2 bits only); auto follows the strategy."},
      {"fit", kModel, &Member<&Config::fit>, OneOf({"auto", "min_max", "fitted"}),
       "How a group's scale and zero point are found: from the range of its weights, or by least squares; auto fits "
       "where "
       "there are activations."},
      {"min_accuracy", kModel, &Member<&Config::min_accuracy>, Between(0, 1),
       "Least cosine similarity of a layer's output (of its weights without activations) before it falls back to more "
       "bits."},
      {"seed", kModel, &Member<&Config::seed>, AtLeast(0), "Seed of everything random: equal seeds give equal bytes."},
  };
}

std::vector<ConfigField> SizeFields() {
  return {
      {"target_size_mb", kSize, &Member<&Config::target_size_mb>, Above(0),
       "Size budget of the quantized weights on disk in MB of 1,000,000 bytes, for mixed precision; where not even the "
       "smallest choice fits, that one is made with a warning, which is an error under strict; null is the size of all "
       "layers at bit_width."},
      {"target_model_size_mb", kSize, &Member<&Config::target_model_size_mb>, Above(0),
       "Older name of target_size_mb, which it replaces when it is not null."},
      {"target_error", kSize, &Member<&Config::target_error>, Above(0),
       "Error budget of mixed precision: the relative squared error of the model's output that is expected; the "
       "smallest model within it is made, target_size_mb permitting; null is no budget."},
      {"enable_mixed_precision", kSize, &Member<&Config::enable_mixed_precision>, Any(),
       "Choose the bits of every layer from 2, 3, 4, 8 and 16 by measured errors: the least error within "
       "target_size_mb, or the least size within target_error. See docs/mixed-precision.md."},
      {"layer_bit_widths",
       kSize,
       &Member<&Config::layer_bit_widths>,
       {.numbers = {2, 3, 4, 8, 16}, .pattern = true},
       "Bits of single layers by exact name or regular expression; names come first, then patterns in their order; 16 "
       "keeps a layer as it is."},
      {"from_plan", kSize, &Member<&Config::from_plan>, Any(),
       "File of a plan (quantize --plan --json or --save-plan), maybe edited: bits, group size and method of every "
       "tensor; stronger than all else that chooses them."},
  };
}

std::vector<ConfigField> TensorFields() {
  return {
      {"components", kTensors, &Member<&Config::components>, Any(),
       "Components of a pipeline to quantize; empty for its denoisers."},
      {"variant",
       kTensors,
       &Member<&Config::variant>,
       {.may_be_empty = true},
       "Variant of the checkpoint's files, such as fp16; \"\" for the files without one, null for the only one there "
       "is."},
      {"keep_patterns", kTensors, &Member<&Config::keep_patterns>, Patterns(),
       "Tensors to keep unquantized besides the default ones; stronger than quantize_patterns."},
      {"quantize_patterns", kTensors, &Member<&Config::quantize_patterns>, Patterns(),
       "Tensors to quantize although they are kept by default."},
      {"transposed_patterns", kTensors, &Member<&Config::transposed_patterns>, Patterns(),
       "Weights whose output channels are on axis 1, as in transposed convolutions."},
      {"skip_sensitive_layers", kTensors, &Member<&Config::skip_sensitive_layers>, Any(),
       "Keep the sensitive layers, found by their role and by the two lists below, unquantized."},
      {"sensitive_layer_names", kTensors, &Member<&Config::sensitive_layer_names>, Any(),
       "Names of further sensitive layers, protected by mixed precision too."},
      {"sensitive_layer_patterns", kTensors, &Member<&Config::sensitive_layer_patterns>, Patterns(),
       "Patterns of further sensitive layers, protected by mixed precision too."},
      {"on_nonfinite", kTensors, &Member<&Config::on_nonfinite>, OneOf({"error", "keep"}),
       "A weight with NaN or infinity is an error, or its tensor is kept unquantized."},
  };
}

std::vector<ConfigField> RoundingFields() {
  return {
      {"strategy", kRounding, &Member<&Config::strategy>, OneOf({"auto", "gptq", "r2q", "none"}),
       "Rounding strategy; auto takes r2q (residual binary grids at 2 bits) for text and code, gptq (affine grids) for "
       "image and audio; none is plain nearest rounding."},
      {"rounding", kRounding, &Member<&Config::rounding>, OneOf({"auto", "nearest", "ldlq"}),
       "To the nearest value, or with error feedback (LDLQ, needs activations); auto uses feedback where it can."},
      {"rounding_order", kRounding, &Member<&Config::rounding_order>, OneOf({"activation", "natural"}),
       "Order of columns in error feedback: loudest input channels first, or left to right."},
      {"rounding_rounds", kRounding, &Member<&Config::rounding_rounds>, Between(0, 32),
       "Rounds of refitting and coordinate descent after error feedback."},
      {"dampening", kRounding, &Member<&Config::dampening>, UpTo(1),
       "Part of the mean diagonal that is added to the second moment of the activations before it is factored."},
  };
}

std::vector<ConfigField> CalibrationFields() {
  return {
      {"calibration", kCalibration, &Member<&Config::calibration>, Any(),
       "Where activations come from: auto (a calibration file in the model's folder, else the model's own sampling, "
       "else none), none, synthetic (the model's own sampling), or the path of a calibration file."},
      {"calibration_samples", kCalibration, &Member<&Config::calibration_samples>, AtLeast(1),
       "Samples that are run through the model."},
      {"calibration_stages", kCalibration, &Member<&Config::calibration_stages>, Between(1, 64),
       "Stages in which layers are calibrated, in their order; those of a later stage see the inputs that the "
       "quantized layers of earlier ones leave, and make up for the difference from the float model where held-out "
       "samples gain. "
       "Each stage after the first is a run of the samples through both models."},
      {"allow_remote_code", kCalibration, &Member<&Config::allow_remote_code>, Any(),
       "Run Python code from the model's folder where its config.json needs it to build the model (auto_map). Such "
       "code can do whatever you can do."},
      {"objective", kCalibration, &Member<&Config::objective>, OneOf({"trajectory", "detail"}),
       "What time weights favour: the whole picture (noisy steps), or fine detail (late steps)."},
  };
}

std::vector<ConfigField> TimeFields() {
  return {
      {"enable_time_aware", kTime, &Member<&Config::enable_time_aware>, Any(),
       "Allow parameters per group of timesteps where the strategy wants them."},
      {"strategy_time_aware", kTime, &Member<&Config::strategy_time_aware>, OneOf({"auto", "always", "never"}),
       "Overrule the strategy: time-aware quantization for any modality, or for none."},
      {"num_time_groups", kTime, &Member<&Config::num_time_groups>, Between(1, 100), "Groups of timesteps."},
      {"time_grouping", kTime, &Member<&Config::time_grouping>, OneOf({"uniform", "auto"}),
       "Equally long groups, or boundaries where the activations change, with num_time_groups as the most."},
      {"time_weighting",
       kTime,
       &Member<&Config::time_weighting>,
       {.words = {"uniform", "sensitivity"}, .minimum = 0},
       "How much each time group counts: equally, by its measured influence on the result, or a list of weights."},
      {"activation_block_early", kTime, &Member<&Config::activation_block_early>, AtLeast(1),
       "Input channels that share an activation scale in the noisier half of the time groups."},
      {"activation_block_late", kTime, &Member<&Config::activation_block_late>, AtLeast(1),
       "Input channels that share an activation scale in the other half."},
      {"activation_range", kTime, &Member<&Config::activation_range>, OneOf({"auto", "min_max", "percentile", "mse"}),
       "How activation ranges are found; auto takes the best on held-out rows."},
      {"activation_bits", kTime, &Member<&Config::activation_bits>, Numbers({0, 4, 6, 8}, "0 is floating point"),
       "Bits of the activations that the model is meant to run with: transforms are chosen for weights and activations "
       "together; with 0 the weights come first, unless a transform is asked for by name."},
  };
}

std::vector<ConfigField> SpatialFields() {
  return {
      {"enable_spatial", kSpatial, &Member<&Config::enable_spatial>, Any(),
       "Allow transforms of layers' inputs where the strategy wants them; those that are named are made either way."},
      {"strategy_spatial", kSpatial, &Member<&Config::strategy_spatial>, OneOf({"auto", "always", "never"}),
       "Overrule the strategy: spatial quantization for any modality, or for none."},
      {"equalization", kSpatial, &Member<&Config::equalization>, OneOf({"auto", "none", "balance", "grid"}),
       "Scaling of input channels before rounding, undone at run time; auto takes the best on held-out rows."},
      {"smoothing", kSpatial, &Member<&Config::smoothing>, OneOf({"auto", "none", "shift"}),
       "Shift of the activations' means into the bias; auto where it helps on held-out rows."},
      {"hadamard", kSpatial, &Member<&Config::hadamard>, OneOf({"auto", "none", "block"}),
       "Rotation of blocks of 64 input channels with random signs; auto where it helps on held-out rows."},
  };
}

std::vector<ConfigField> RunFields() {
  return {
      {"fallback", kFallback, &Member<&Config::fallback>, Any(),
       "A layer below min_accuracy is quantized again with more bits, and at last kept; false leaves it as it is."},
      {"fail_fast", kFallback, &Member<&Config::fail_fast>, Any(),
       "Stop with an error at the first layer that would fall back."},
      {"strict", kFallback, &Member<&Config::strict>, Any(),
       "Finish, but report failure when any layer fell back or the size budget was missed."},
      {"num_threads", kResources, &Member<&Config::num_threads>, Between(0, 1024),
       "Threads; 0 takes the processors that this process may use."},
      {"max_memory_limit_mb", kResources, &Member<&Config::max_memory_limit_mb>, Above(0),
       "Memory limit in MB of 1,000,000 bytes; null is 75 % of the machine's memory.", "ARROW_QUANT_MAX_MEMORY_MB"},
  };
}

std::vector<ConfigField> ThermodynamicFields() {
  constexpr auto kValidation = &Thermo::validation;
  constexpr auto kSmoothing = &Thermo::boundary_smoothing;
  constexpr auto kTransition = &Thermo::transition_optimization;
  using Validation = ThermodynamicValidation;
  using Transition = TransitionOptimization;
  constexpr auto kRoot = &Config::thermodynamic;
  return {
      {"thermodynamic.validation.enabled", kThermo, &Member<kRoot, kValidation, &Validation::enabled>, Any(),
       "Score how smoothly parameters change from one time group to the next."},
      {"thermodynamic.validation.smoothness_threshold", kThermo,
       &Member<kRoot, kValidation, &Validation::smoothness_threshold>, Between(0, 1),
       "Relative jump between neighbouring groups that counts as a violation."},
      {"thermodynamic.validation.log_violations", kThermo, &Member<kRoot, kValidation, &Validation::log_violations>,
       Any(), "Log every violation, not only their number."},
      {"thermodynamic.boundary_smoothing.enabled", kThermo, &Member<kRoot, kSmoothing, &BoundarySmoothing::enabled>,
       Any(), "Interpolate parameters across the boundary of two time groups at run time."},
      {"thermodynamic.boundary_smoothing.window_size", kThermo,
       &Member<kRoot, kSmoothing, &BoundarySmoothing::window_size>, Between(1, 20),
       "Timesteps on each side of a boundary that are interpolated."},
      {"thermodynamic.boundary_smoothing.interpolation", kThermo,
       &Member<kRoot, kSmoothing, &BoundarySmoothing::interpolation>, OneOf({"linear", "cubic", "sigmoid"}),
       "Shape of the interpolation."},
      {"thermodynamic.transition_optimization.enabled", kThermo, &Member<kRoot, kTransition, &Transition::enabled>,
       Any(), "Penalize jumps between neighbouring groups when their parameters are fitted."},
      {"thermodynamic.transition_optimization.markov_weight", kThermo,
       &Member<kRoot, kTransition, &Transition::markov_weight>, AtLeast(0), "Weight of the penalty on jumps."},
      {"thermodynamic.transition_optimization.entropy_weight", kThermo,
       &Member<kRoot, kTransition, &Transition::entropy_weight>, AtLeast(0),
       "Weight of the penalty on uneven use of the groups."},
      {"thermodynamic.transition_optimization.learning_rate", kThermo,
       &Member<kRoot, kTransition, &Transition::learning_rate>, UpTo(1), "Step of the iteration."},
      {"thermodynamic.transition_optimization.max_iterations", kThermo,
       &Member<kRoot, kTransition, &Transition::max_iterations>, AtLeast(1), "Most steps of the iteration."},
      {"thermodynamic.transition_optimization.convergence_threshold", kThermo,
       &Member<kRoot, kTransition, &Transition::convergence_threshold>, Above(0),
       "Relative change below which the iteration ends."},
      {"thermodynamic.transition_optimization.beta_schedule", kThermo,
       &Member<kRoot, kTransition, &Transition::beta_schedule>, OneOf({"linear", "cosine"}),
       "Noise schedule that weights the penalty over time."},
  };
}

ConfigField WithoutEffect(std::string_view name, FieldAccess access, std::string_view doc,
                          std::string_view old_env = {}) {
  return {name, kOld, access, AtLeast(0), doc, old_env, false};
}

std::vector<ConfigField> OldFields() {
  return {
      WithoutEffect("enable_streaming", &Member<&Config::enable_streaming>,
                    "Layers always flow through a bounded pipeline of reading, quantizing and writing."),
      WithoutEffect("enable_memory_aware_scheduling", &Member<&Config::enable_memory_aware_scheduling>,
                    "The memory limit is always obeyed.", "ARROW_QUANT_ENABLE_MEMORY_AWARE"),
      WithoutEffect("enable_entropy_adaptation", &Member<&Config::enable_entropy_adaptation>,
                    "Bits are chosen by measured error: see enable_mixed_precision."),
      WithoutEffect("use_arrow", &Member<&Config::use_arrow>, "Arrow is always used."),
      WithoutEffect("enable_simd", &Member<&Config::enable_simd>,
                    "The instruction set is chosen at run time; ARROW_QUANT_ISA forces one."),
      WithoutEffect("simd_threshold", &Member<&Config::simd_threshold>, "Kernels handle every length."),
  };
}

}  // namespace

std::span<const ConfigField> ConfigFields() {
  static const std::vector<ConfigField> fields = [] {
    std::vector<ConfigField> all;
    for (const auto make : {ModelFields, SizeFields, TensorFields, RoundingFields, CalibrationFields, TimeFields,
                            SpatialFields, RunFields, ThermodynamicFields, OldFields}) {
      const std::vector<ConfigField> part = make();
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }();
  return fields;
}

}  // namespace arrow_quant
