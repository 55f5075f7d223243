#include "arrow_quant/orchestrate/quantize_model.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/model/keep_list.h"
#include "arrow_quant/model/scale_plan.h"
#include "arrow_quant/model/source.h"
#include "arrow_quant/orchestrate/apply_plan.h"
#include "arrow_quant/orchestrate/component_run.h"
#include "arrow_quant/orchestrate/mixed_precision.h"
#include "arrow_quant/orchestrate/model_equalization.h"
#include "arrow_quant/orchestrate/model_writing.h"
#include "arrow_quant/orchestrate/run_key.h"
#include "arrow_quant/orchestrate/staging_directory.h"
#include "arrow_quant/orchestrate/tensor_quantizer.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

struct Resolved {
  ModelSource source;
  std::vector<ScalePlan> scales;               // per component
  std::vector<std::vector<TensorPlan>> plans;  // per component, per tensor
  ModelResult result;
  Strategy strategy;
  ModelCalibration calibration;  // with time weights
};

void AddTimeWeights(const ModelOptions& options, Resolved& r) {
  if (r.calibration.statistics == nullptr) return;
  r.calibration.time_weights = TimeWeightsOf(options.time_weights, *r.calibration.statistics);
  if (r.calibration.time_weights.empty() || r.calibration.statistics->keeps_groups()) return;
  r.result.warnings.push_back(
      "time groups count alike: the second moments of this model were too large to be kept for each time group");
}

void AddStrategy(const std::optional<Modality>& modality, const ModelOptions& options,
                 const ModelCalibration& calibration, Resolved& r) {
  const bool have_activations = calibration.kind != "none";
  r.strategy = StrategyOf(modality, options, have_activations);
  r.result.strategy = StrategyName(r.strategy);
  r.result.calibration = have_activations ? calibration.kind : "none";
  const int seen = calibration.statistics == nullptr ? 0 : calibration.statistics->time_groups().size();
  if (seen > 0 && r.strategy.time_aware_activations && options.activations.time_groups > seen) {
    r.result.warnings.push_back("num_time_groups is " + std::to_string(options.activations.time_groups) +
                                ", and the statistics were kept for " + std::to_string(seen) +
                                ": more groups need another calibration");
  }
  if (have_activations) return;
  const SpatialOptions& spatial = options.spatial;
  if (spatial.equalization == "balance" || spatial.equalization == "grid" || spatial.smoothing == "shift" ||
      spatial.hadamard != "none" || spatial.strategy == "always") {
    r.result.warnings.push_back(
        "no input of a layer is transformed: equalization, smoothing and rotation need activations");
  }
  if (options.rounding == "ldlq" || options.grid == "residual_binary") {
    r.result.warnings.push_back(
        "rounding is to the nearest value of evenly spaced grids: error feedback and residual binary grids need "
        "activations");
  }
}

// Marks the weights that have scales, and the scales, which end with their weights.
void ApplyScalePlan(const ScalePlan& scales, const SourceComponent& component, std::vector<TensorPlan>& plans,
                    ModelResult& result) {
  const auto& tensors = component.checkpoint.tensors();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (const auto merged = scales.merged.find(tensors[i].name); merged != scales.merged.end()) {
      plans[i] = TensorPlan{};
      plans[i].merged = true;
      result.merged.push_back({tensors[i].name, component.name, merged->second});
    }
    const auto found = scales.weights.find(tensors[i].name);
    if (found != scales.weights.end()) plans[i].scale = &found->second;
  }
}

Resolved Resolve(const fs::path& input, const ModelOptions& options, const ModelCalibration& calibration) {
  Resolved r;
  r.source = ResolveModel(input, {.components = options.components, .variant = options.variant});
  if (r.source.kind == SourceKind::kParquet) {
    throw Error(ErrorCode::kUnsupported, "the core quantizes safetensors only, and this is a Parquet model",
                {.file = input.string(), .remedy = "Use arrow-quant quantize, or export it to safetensors first."});
  }
  r.result.source_kind = SourceKindName(r.source.kind);
  r.result.bit_width = options.bit_width;
  r.result.group_size = options.group_size;
  std::optional<Modality> modality;
  if (options.diffusion) {
    const ModalityDecision decision = DetectModality(r.source, options.modality);
    modality = decision.modality;
    r.result.modality = ModalityName(decision.modality);
    r.result.modality_reason = decision.reason;
  }
  AddStrategy(modality, options, calibration, r);
  r.calibration = calibration;
  AddTimeWeights(options, r);
  const KeepList keep({.keep_patterns = options.keep_patterns,
                       .quantize_patterns = options.quantize_patterns,
                       .transposed_patterns = options.transposed_patterns});
  for (const SourceComponent& component : r.source.components) {
    r.scales.push_back(PlanScales(component.scale_for, component.checkpoint.tensors(), component.config_json));
  }
  for (std::size_t c = 0; c < r.source.components.size(); ++c) {
    const SourceComponent& component = r.source.components[c];
    const auto& tensors = component.checkpoint.tensors();
    r.plans.push_back(
        PlanTensors(tensors, keep.Decide(tensors, ReadArchitecture(component.config_json, tensors)), options));
    ApplyScalePlan(r.scales[c], component, r.plans.back(), r.result);
    for (const std::string& pattern : keep.UnmatchedPatterns(tensors)) {
      r.result.warnings.push_back("pattern '" + pattern + "' fits no tensor");
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      r.result.source_bytes += tensors[i].num_bytes;
      if (r.plans.back()[i].merged) continue;
      r.result.num_params += tensors[i].num_elements;
    }
  }
  if (options.plan) ApplyPlan(*options.plan, r.source, r.strategy, r.plans);
  for (const SkippedFile& skipped : r.source.skipped_files) {
    r.result.warnings.push_back("left out " + skipped.path + ": " + skipped.reason);
  }
  return r;
}

// Refers to `r` and `options`.
ModelEqualization EqualizationOf(const Resolved& r, const ModelOptions& options) {
  std::vector<PlannedComponent> components;
  components.reserve(r.plans.size());
  for (std::size_t c = 0; c < r.plans.size(); ++c) components.push_back({r.source.components[c], r.plans[c]});
  return {std::move(components), options, r.strategy, r.calibration};
}

// Measuring quantizes every layer at four widths, the run at one.
constexpr double kMeasuringShare = 0.8;

void ChooseBits(Resolved& r, const ModelOptions& options, const fs::path& figures, const ProgressFunction& progress,
                const std::stop_token& stop) {
  std::vector<PrecisionComponent> components;
  components.reserve(r.plans.size());
  for (std::size_t c = 0; c < r.plans.size(); ++c) components.push_back({r.source.components[c], r.plans[c]});
  MeasuringProgress part;
  if (progress) part = [&](const std::string& tensor, double done) { progress(tensor, kMeasuringShare * done); };
  ModelEqualization equalization = EqualizationOf(r, options);
  r.result.precision = ChoosePrecision(components, {options, r.strategy, r.calibration, &equalization}, figures, part,
                                       stop, r.result.warnings);
}

void WarnOfSize(const ModelOptions& options, ModelResult& result) {
  if (!result.precision || !options.precision.size_mb) return;
  const PrecisionReport& report = *result.precision;
  if (result.parquet_bytes <= report.budget_bytes || report.smallest_bytes > report.budget_bytes) return;
  char text[160];
  std::snprintf(text, sizeof(text), "the model has %.3f MB, %.3f MB were expected, and %.3f MB is target_size_mb",
                result.model_size_mb(), static_cast<double>(report.expected_bytes) / 1e6,
                static_cast<double>(report.budget_bytes) / 1e6);
  result.warnings.emplace_back(text);
}

std::int64_t WeightsToQuantize(const Resolved& r) {
  std::int64_t weights = 0;
  for (std::size_t c = 0; c < r.plans.size(); ++c) {
    const auto& tensors = r.source.components[c].checkpoint.tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (r.plans[c][i].decision.quantize) weights += tensors[i].num_elements;
    }
  }
  return weights;
}

double PeakMemoryMb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / 1e6;
}

void AddSums(const ErrorSums& part, ErrorSums& total) {
  total.ww += part.ww;
  total.wq += part.wq;
  total.qq += part.qq;
  total.ee += part.ee;
}

bool SourceChanged(const ModelSource& source) {
  return std::any_of(source.components.begin(), source.components.end(),
                     [](const SourceComponent& component) { return !component.checkpoint.ChangedFiles().empty(); });
}

void WarnOfJumps(const ThermodynamicValidation& options, ModelResult& result) {
  std::string layers;
  std::int64_t count = 0;
  for (const TensorReport& report : result.tensors) {
    if (report.activations.jumps == 0) continue;
    if (++count > 3 && !options.log_violations) continue;
    layers += (layers.empty() ? "'" : ", '") + report.name + "' (" + std::to_string(report.activations.jumps) + ")";
  }
  if (count == 0) return;
  char threshold[16];
  std::snprintf(threshold, sizeof(threshold), "%.2g", options.smoothness_threshold);
  result.warnings.push_back("ranges of activations jump by more than " + std::string(threshold) +
                            " between neighbouring time groups in " + std::to_string(count) + " layers: " + layers);
}

void WarnOfNonFiniteRows(ModelResult& result) {
  std::string layers;
  std::int64_t count = 0;
  for (const TensorReport& report : result.tensors) {
    if (report.non_finite_rows == 0) continue;
    if (++count <= 3) layers += (layers.empty() ? "'" : ", '") + report.name + "'";
  }
  if (count == 0) return;
  if (count > 3) layers += " and " + std::to_string(count - 3) + " more";
  result.warnings.push_back("rows of activations with NaN or infinity were left out: " + layers);
}

struct SpaceNeeds {
  std::int64_t output = 0;
  std::int64_t spool = 0;  // the largest file's quantized tensors
};

SpaceNeeds EstimateSpace(const Resolved& r, const ModelOptions& options) {
  SpaceNeeds needs;
  for (std::size_t c = 0; c < r.plans.size(); ++c) {
    const auto& tensors = r.source.components[c].checkpoint.tensors();
    std::int64_t of_file = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (i == 0 || tensors[i].file_index != tensors[i - 1].file_index) of_file = 0;
      if (r.plans[c][i].merged) continue;
      const TensorReport report = PlannedReport(tensors[i], r.plans[c][i], options, r.strategy);
      needs.output += report.stored_bytes;
      if (report.quantized) of_file += report.stored_bytes;
      needs.spool = std::max(needs.spool, of_file);
    }
  }
  std::error_code error;
  for (const std::string& name : r.source.other_files) {
    const std::uintmax_t size = fs::file_size(r.source.root / name, error);
    if (!error) needs.output += static_cast<std::int64_t>(size);
  }
  return needs;
}

std::int64_t BytesIn(const fs::path& directory) {
  std::int64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    std::error_code no_file;
    const std::uintmax_t size = fs::file_size(it->path(), no_file);
    if (!no_file) bytes += static_cast<std::int64_t>(size);
  }
  return bytes;
}

// Hours of work must not end on a full disk. False where there is room for the output only, not for a spool as well.
bool CheckFreeSpace(const Resolved& r, const ModelOptions& options, StagingDirectory& staging) {
  const SpaceNeeds needs = EstimateSpace(r, options);
  const std::int64_t output = needs.output - BytesIn(staging.path());
  const std::int64_t spool = needs.spool - static_cast<std::int64_t>(staging.journal().SpoolBytes());
  std::error_code error;
  const fs::space_info space = fs::space(staging.path(), error);
  const auto available = static_cast<std::int64_t>(std::min<std::uintmax_t>(space.available, INT64_MAX));
  if (error || available >= output + std::max<std::int64_t>(spool, 0)) return true;
  if (available >= output) return false;
  throw Error(ErrorCode::kResource,
              "the output may need " + std::to_string((output + 999999) / 1000000) + " MB, and " +
                  std::to_string(available / 1000000) + " MB are free",
              {.file = staging.path().string(), .remedy = "Free space, or choose another output."});
}

// With --overwrite the output takes the place of what is there, which must not be what is read.
void RefuseOutputOverInput(const fs::path& input, const fs::path& output) {
  std::error_code error;
  const fs::path source = fs::weakly_canonical(input, error);
  fs::path target = fs::weakly_canonical(output, error);
  if (error) return;
  if (!target.has_filename()) target = target.parent_path();  // "out/"
  const auto [end, rest] = std::mismatch(target.begin(), target.end(), source.begin(), source.end());
  if (end != target.end()) return;
  throw Error(ErrorCode::kConfiguration, "the output would replace the input '" + input.string() + "'",
              {.file = output.string(), .remedy = "Choose another output."});
}

// A run that the same command would end in the same way leaves nothing to continue from.
bool EndsAgain(ErrorCode code) {
  return code != ErrorCode::kIo && code != ErrorCode::kResource && code != ErrorCode::kCancelled;
}

void QuantizeComponents(Resolved& r, const ModelOptions& options, const ProgressFunction& progress,
                        const std::stop_token& stop, StagingDirectory& staging) {
  const bool spool = CheckFreeSpace(r, options, staging);
  if (!spool) {
    r.result.warnings.push_back(
        "the disk has room for the output only: an interrupted run will begin its current file anew");
  }
  const double all = static_cast<double>(std::max<std::int64_t>(WeightsToQuantize(r), 1));
  const double begun = options.precision.enabled ? kMeasuringShare : 0;
  ModelEqualization equalization = EqualizationOf(r, options);
  ErrorSums total;
  std::int64_t done_before = 0;
  std::vector<WrittenFile> files;
  for (std::size_t c = 0; c < r.source.components.size(); ++c) {
    const SourceComponent& component = r.source.components[c];
    ComponentRun run(component, staging.path() / component.directory, r.result.modality,
                     {options, r.strategy, r.calibration, &equalization}, {staging.journal(), c, spool});
    ComponentResult part = run.Run(
        r.plans[c],
        [&](const std::string& name, std::int64_t done) {
          if (!progress) return;
          const auto so_far = static_cast<double>(done_before + run.progress_base() + done);
          progress(name, begun + (1 - begun) * std::min(1.0, so_far / all));
        },
        stop);
    done_before += run.progress_base();
    AddSums(part.sums, total);
    std::move(part.reports.begin(), part.reports.end(), std::back_inserter(r.result.tensors));
    std::move(part.files.begin(), part.files.end(), std::back_inserter(files));
    r.result.resumed_tensors += part.resumed_tensors;
  }
  WarnOfNonFiniteRows(r.result);
  WarnOfJumps(options.activations.transitions.validation, r.result);
  for (const WrittenFile& file : files) r.result.parquet_bytes += static_cast<std::int64_t>(file.bytes);
  WarnOfSize(options, r.result);
  if (options.plan) WarnOfPlannedLosses(options.min_accuracy, r.result);
  r.result.cosine = Cosine(total);
  r.result.sqnr_db = SqnrDb(total);
  WriteSideFiles(r.source, options, r.result, files, staging.path());
  for (const SourceComponent& component : r.source.components) component.checkpoint.RefuseChanged();
}

// Runs body(); the system's refusals become Errors.
template <typename Body>
void WithSystemErrors(const fs::path& output, const Body& body) {
  try {
    body();
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::kResource, "not enough memory",
                {.file = output.string(), .remedy = "Use fewer threads, or raise the limit (ulimit -v)."});
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorCode::kIo, error.code().message(), {.file = error.path1().string()});
  } catch (const std::system_error& error) {  // no more threads
    throw Error(ErrorCode::kResource, std::string("the system refused: ") + error.what(), {.file = output.string()});
  }
}

Error WithHint(const Error& error) {
  ErrorContext context = error.context();
  context.remedy += (context.remedy.empty() ? "" : " ") +
                    std::string("What is finished is kept: the same command continues from there.");
  return {error.code(), error.message(), std::move(context)};
}

}  // namespace

ModelResult QuantizeModel(const fs::path& input, const fs::path& output, const ModelOptions& options,
                          const ProgressFunction& progress, const std::stop_token& stop,
                          const ModelCalibration& calibration) {
  const auto start = std::chrono::steady_clock::now();
  RefuseOutputOverInput(input, output);
  Resolved r = Resolve(input, options, calibration);
  StagingDirectory staging(output, options.overwrite);
  if (!staging.locked()) {
    r.result.warnings.push_back("the output's file system knows no locks: a second run on it would not be noticed");
  }
  staging.Begin(RunKey(r.source, options, r.calibration), options.resume);
  try {
    WithSystemErrors(output, [&] {
      if (options.precision.enabled) ChooseBits(r, options, staging.journal().FiguresPath(), progress, stop);
      QuantizeComponents(r, options, progress, stop, staging);
    });
  } catch (const Error& error) {
    const bool changed = SourceChanged(r.source);
    if (changed || EndsAgain(error.code())) staging.Discard();
    if (staging.ended() || error.code() == ErrorCode::kCancelled || !staging.journal().HasWork()) throw;
    throw WithHint(error);
  }
  staging.Commit();
  r.result.quantized_path = output.string();
  r.result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  r.result.peak_memory_mb = PeakMemoryMb();
  if (progress) progress("done", 1.0);
  return std::move(r.result);
}

ModelResult PlanModel(const fs::path& input, const ModelOptions& options, const ModelCalibration& calibration,
                      const ProgressFunction& progress, const std::stop_token& stop) {
  Resolved r = Resolve(input, options, calibration);
  if (options.precision.enabled) ChooseBits(r, options, {}, progress, stop);
  for (std::size_t c = 0; c < r.source.components.size(); ++c) {
    const auto& tensors = r.source.components[c].checkpoint.tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (r.plans[c][i].merged) continue;
      TensorReport report = PlannedReport(tensors[i], r.plans[c][i], options, r.strategy);
      report.component = r.source.components[c].name;
      r.result.parquet_bytes += report.stored_bytes;
      r.result.tensors.push_back(std::move(report));
    }
  }
  return std::move(r.result);
}

}  // namespace arrow_quant
