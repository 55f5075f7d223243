#include "arrow_quant/orchestrate/quantize_model.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <future>
#include <memory>
#include <utility>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/name_pattern.h"
#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/calibrate/time_weights.h"
#include "arrow_quant/model/keep_list.h"
#include "arrow_quant/model/scale_plan.h"
#include "arrow_quant/model/source.h"
#include "arrow_quant/orchestrate/float8_weight.h"
#include "arrow_quant/orchestrate/model_writing.h"
#include "arrow_quant/orchestrate/staging_directory.h"
#include "arrow_quant/orchestrate/tensor_quantizer.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

// What one tensor gets.
struct TensorPlan {
  TensorDecision decision;
  int bits = 0;
  const ScaleShape* scale = nullptr;  // of an 8-bit float weight
  bool merged = false;                // is itself such a scale, and ends with its weight
};

struct Resolved {
  ModelSource source;
  std::vector<ScalePlan> scales;               // per component
  std::vector<std::vector<TensorPlan>> plans;  // per component, per tensor
  ModelResult result;
  Strategy strategy;
  ModelCalibration calibration;  // with time weights
  std::int64_t weights_to_quantize = 0;
};

// The width of single layers: an exact name, with or without ".weight", before the regular expressions.
class LayerBits {
 public:
  explicit LayerBits(const ModelOptions& options) : default_(options.bit_width), rules_(options.layer_bit_widths) {
    for (const auto& [pattern, bits] : rules_) patterns_.emplace_back(pattern, "layer_bit_widths");
  }

  int Of(const std::string& name) const {
    for (const auto& [pattern, bits] : rules_) {
      if (name == pattern || name == pattern + ".weight") return bits;
    }
    for (std::size_t i = 0; i < rules_.size(); ++i) {
      if (patterns_[i].Matches(name)) return rules_[i].second;
    }
    return default_;
  }

 private:
  int default_;
  std::vector<std::pair<std::string, int>> rules_;
  std::vector<NamePattern> patterns_;
};

std::vector<TensorPlan> PlanTensors(const std::vector<TensorInfo>& tensors, std::vector<TensorDecision> decisions,
                                    const LayerBits& layer_bits) {
  std::vector<TensorPlan> plans;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    TensorPlan plan{std::move(decisions[i]), 0};
    if (plan.decision.quantize) plan.bits = layer_bits.Of(tensors[i].name);
    if (plan.bits == 16) plan.decision.quantize = false, plan.decision.reason = "layer_bit_widths says 16";
    plans.push_back(std::move(plan));
  }
  return plans;
}

// What the strategy reads of a configuration.
Strategy StrategyOf(const std::optional<Modality>& modality, const ModelOptions& options, bool have_activations) {
  DiffusionQuantConfig config;
  config.strategy = options.strategy;
  config.rounding = options.rounding;
  config.grid = options.grid;
  config.fit = options.fit;
  config.enable_time_aware = options.activations.enable_time_aware;
  config.strategy_time_aware = options.activations.strategy_time_aware;
  config.strategy_spatial = "never";
  Strategy strategy = ChooseStrategy(modality, config, have_activations);
  strategy.time_aware = false;  // gains and biases per time group are not made in this version
  return strategy;
}

// How much each time group counts, from what the configuration asks for. Throws Error kConfiguration where the
// statistics cannot serve it.
std::vector<double> TimeWeightsOf(const TimeWeightOptions& options, const StatisticsSource& statistics) {
  const int groups = statistics.time_groups().size();
  if (!options.given.empty() && options.given.size() != static_cast<std::size_t>(groups)) {
    throw Error(ErrorCode::kConfiguration,
                "time_weighting has " + std::to_string(options.given.size()) + " values, and the statistics " +
                    std::to_string(groups) + " time groups",
                {.remedy = "Give one value for each, or calibrate again with this configuration."});
  }
  if (!options.given.empty()) return options.given;
  if (options.detail) return DetailWeights(groups);
  if (!options.sensitivity) return {};
  if (!statistics.sensitivity().empty()) return SensitivityWeights(statistics.sensitivity());
  throw Error(
      ErrorCode::kConfiguration, "time_weighting is sensitivity, which these statistics do not hold",
      {.remedy = "Calibrate again with time_weighting sensitivity on the model's own sampling, or use uniform."});
}

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
  if (options.rounding == "ldlq" || options.grid == "residual_binary") {
    r.result.warnings.push_back(
        "rounding is to the nearest value of evenly spaced grids: error feedback and residual binary grids need "
        "activations");
  }
}

const char* MethodName(const Strategy& strategy) {
  return strategy.error_feedback ? "ldlq" : UsesFittedGrid(strategy) ? "fitted" : "min_max";
}

// Marks the weights that have scales, and the scales, which end with their weights.
void ApplyScalePlan(const ScalePlan& scales, const SourceComponent& component, std::vector<TensorPlan>& plans,
                    ModelResult& result) {
  const auto& tensors = component.checkpoint.tensors();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (const auto merged = scales.merged.find(tensors[i].name); merged != scales.merged.end()) {
      plans[i] = {};
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
    r.plans.push_back(PlanTensors(tensors, keep.Decide(tensors, ReadArchitecture(component.config_json, tensors)),
                                  LayerBits(options)));
    ApplyScalePlan(r.scales[c], component, r.plans.back(), r.result);
    for (const std::string& pattern : keep.UnmatchedPatterns(tensors)) {
      r.result.warnings.push_back("pattern '" + pattern + "' fits no tensor");
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      r.result.source_bytes += tensors[i].num_bytes;
      if (r.plans.back()[i].merged) continue;
      r.result.num_params += tensors[i].num_elements;
      if (r.plans.back()[i].decision.quantize) r.weights_to_quantize += tensors[i].num_elements;
    }
  }
  for (const SkippedFile& skipped : r.source.skipped_files) {
    r.result.warnings.push_back("left out " + skipped.path + ": " + skipped.reason);
  }
  return r;
}

double PeakMemoryMb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / 1e6;
}

// Tensors quantized side by side: at most so many, and so many weights together.
constexpr std::size_t kBatchTensors = 64;
constexpr std::int64_t kBatchWeights = std::int64_t{1} << 22;

// Quantizes the tensors of one component, batch by batch. A batch is written while the next is quantized.
class ComponentRun {
 public:
  ComponentRun(const SourceComponent& component, const fs::path& directory, const std::string& modality,
               const TensorContext& context)
      : component_(component), writing_(component, directory, modality), context_(context) {}

  ErrorSums Run(const std::vector<TensorPlan>& plans,
                const std::function<void(const std::string&, std::int64_t)>& progress, const std::stop_token& stop,
                std::vector<TensorReport>& reports) {
    ErrorSums total;
    for (std::size_t begin = 0; begin < plans.size();) {
      if (stop.stop_requested()) throw Error(ErrorCode::kCancelled, "stopped on request");
      const std::size_t end = BatchEnd(begin);
      auto outcomes = std::make_shared<std::vector<TensorOutcome>>(end - begin);
      ThreadPool::Shared().ParallelFor(
          static_cast<std::int64_t>(end - begin), context_.options.num_threads,
          [&](std::int64_t i) {
            (*outcomes)[static_cast<std::size_t>(i)] =
                QuantizeOne(begin + static_cast<std::size_t>(i), plans, progress, stop);
          },
          stop);
      for (std::size_t i = begin; i < end; ++i) {
        if (plans[i].merged) continue;
        AddSums((*outcomes)[i - begin].sums, total);
        reports.push_back((*outcomes)[i - begin].report);
      }
      WriteBehind(begin, plans, std::move(outcomes));
      begin = end;
    }
    if (pending_.valid()) pending_.get();
    return total;
  }

  std::vector<WrittenFile> Close() { return writing_.Close(); }
  std::int64_t progress_base() const { return progress_base_; }

 private:
  static void AddSums(const ErrorSums& part, ErrorSums& total) {
    total.ww += part.ww;
    total.wq += part.wq;
    total.qq += part.qq;
    total.ee += part.ee;
  }

  // Small tensors are quantized side by side, a large one by its rows.
  std::size_t BatchEnd(std::size_t begin) const {
    const auto& tensors = component_.checkpoint.tensors();
    std::int64_t weights = tensors[begin].num_elements;
    std::size_t end = begin + 1;
    while (end < tensors.size() && end - begin < kBatchTensors &&
           weights + tensors[end].num_elements <= kBatchWeights) {
      weights += tensors[end++].num_elements;
    }
    return end;
  }

  TensorOutcome QuantizeOne(std::size_t i, const std::vector<TensorPlan>& plans,
                            const std::function<void(const std::string&, std::int64_t)>& progress,
                            const std::stop_token& stop) {
    const TensorInfo& info = component_.checkpoint.tensors()[i];
    if (plans[i].merged) return {};
    const auto quantize = [&](const TensorInfo& tensor, std::span<const std::byte> bytes) {
      return QuantizeTensor(
          {tensor, bytes, plans[i].decision, plans[i].bits, component_.name}, context_,
          [&](std::int64_t done) { progress(info.name, done); }, stop);
    };
    TensorOutcome outcome = plans[i].scale == nullptr ? quantize(info, component_.checkpoint.Data(info))
                                                      : QuantizeFloat8(info, *plans[i].scale, quantize);
    if (plans[i].decision.quantize) progress_base_ += info.num_elements;
    return outcome;
  }

  // A weight with its scale applied; where it is kept, it is stored as bfloat16.
  template <typename Quantize>
  TensorOutcome QuantizeFloat8(const TensorInfo& info, const ScaleShape& scale, const Quantize& quantize) const {
    const ExpandedWeight weight = ExpandFloat8(component_.checkpoint, info, scale);
    TensorOutcome outcome = quantize(weight.info, weight.bytes());
    outcome.report.dtype = TorchName(DType::kBF16);
    outcome.report.source_bytes = info.num_bytes;
    if (outcome.report.quantized) return outcome;
    outcome.replacement = ToBFloat16Bytes(weight.values);
    outcome.report.stored_bytes = static_cast<std::int64_t>(outcome.replacement.size());
    outcome.report.reason += "; stored as bfloat16 with its scale applied";
    return outcome;
  }

  void WriteBehind(std::size_t begin, const std::vector<TensorPlan>& plans,
                   std::shared_ptr<std::vector<TensorOutcome>> outcomes) {
    if (pending_.valid()) pending_.get();
    pending_ = std::async(std::launch::async, [this, begin, &plans, outcomes = std::move(outcomes)] {
      for (std::size_t i = 0; i < outcomes->size(); ++i) {
        const TensorInfo& info = component_.checkpoint.tensors()[begin + i];
        if (plans[begin + i].merged) continue;
        writing_.Append(info, plans[begin + i].decision.matrix, (*outcomes)[i]);
        component_.checkpoint.Release(info);
      }
    });
  }

  const SourceComponent& component_;
  ComponentWriting writing_;
  TensorContext context_;
  std::atomic<std::int64_t> progress_base_{0};
  std::future<void> pending_;
};

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

void RefuseChangedSource(const ModelSource& source) {
  for (const SourceComponent& component : source.components) {
    const auto changed = component.checkpoint.ChangedFiles();
    if (changed.empty()) continue;
    throw Error(ErrorCode::kIo, "the source changed while it was read",
                {.file = changed.front().string(), .remedy = "Run again when nothing writes to it."});
  }
}

// What a tensor will get, from its header; stored_bytes is an upper estimate.
TensorReport PlannedReport(const TensorInfo& info, const TensorPlan& plan, const ModelOptions& options,
                           const Strategy& strategy) {
  const TensorDecision& decision = plan.decision;
  const bool scaled = plan.scale != nullptr;
  TensorReport report;
  report.name = info.name;
  report.dtype = TorchName(scaled ? DType::kBF16 : info.dtype);
  report.shape = info.shape;
  report.role = LayerRoleName(decision.role);
  report.num_params = info.num_elements;
  report.source_bytes = info.num_bytes;
  report.stored_bytes = scaled ? 2 * info.num_elements : info.num_bytes;
  report.method = "kept";
  report.reason = decision.reason;
  if (!decision.quantize) return report;
  const std::int64_t cols = decision.matrix.cols;
  report.quantized = true;
  report.reason.clear();
  report.bits = plan.bits;
  report.group_size = options.group_size == -1 ? cols : std::min(options.group_size, cols);
  const std::int64_t groups = (cols + report.group_size - 1) / report.group_size;
  report.tail = cols - (groups - 1) * report.group_size;
  report.method = MethodName(strategy);
  const GridKind grid = strategy.error_feedback ? AllowedGrids(strategy, plan.bits).front() : GridKind::kAffine;
  report.grid = GridKindName(grid);
  const std::int64_t group_bytes = grid == GridKind::kResidualBinary ? 12 : 8;
  report.stored_bytes = PackedBytes(report.num_params, report.bits) + decision.matrix.rows * groups * group_bytes;
  return report;
}

// Hours of work must not end on a full disk.
void CheckFreeSpace(const Resolved& r, const ModelOptions& options, const fs::path& directory) {
  std::int64_t needed = 0;
  for (std::size_t c = 0; c < r.plans.size(); ++c) {
    const auto& tensors = r.source.components[c].checkpoint.tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (!r.plans[c][i].merged) needed += PlannedReport(tensors[i], r.plans[c][i], options, r.strategy).stored_bytes;
    }
  }
  std::error_code error;
  for (const std::string& name : r.source.other_files) {
    const std::uintmax_t size = fs::file_size(r.source.root / name, error);
    if (!error) needed += static_cast<std::int64_t>(size);
  }
  const fs::space_info space = fs::space(directory, error);
  if (error || space.available >= static_cast<std::uintmax_t>(needed)) return;
  throw Error(ErrorCode::kResource,
              "the output may need " + std::to_string((needed + 999999) / 1000000) + " MB, and " +
                  std::to_string(space.available / 1000000) + " MB are free",
              {.file = directory.string(), .remedy = "Free space, or choose another output."});
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
  throw Error(ErrorCode::kInvalidArgument, "the output would replace the input '" + input.string() + "'",
              {.file = output.string(), .remedy = "Choose another output."});
}

}  // namespace

ModelResult QuantizeModel(const fs::path& input, const fs::path& output, const ModelOptions& options,
                          const ProgressFunction& progress, const std::stop_token& stop,
                          const ModelCalibration& calibration) {
  const auto start = std::chrono::steady_clock::now();
  RefuseOutputOverInput(input, output);
  Resolved r = Resolve(input, options, calibration);
  StagingDirectory staging(output, options.overwrite);
  CheckFreeSpace(r, options, staging.path());
  const double all = static_cast<double>(std::max<std::int64_t>(r.weights_to_quantize, 1));
  ErrorSums total;
  std::int64_t done_before = 0;
  std::vector<WrittenFile> files;
  for (std::size_t c = 0; c < r.source.components.size(); ++c) {
    const SourceComponent& component = r.source.components[c];
    ComponentRun run(component, staging.path() / component.directory, r.result.modality,
                     {options, r.strategy, r.calibration});
    const ErrorSums sums = run.Run(
        r.plans[c],
        [&](const std::string& name, std::int64_t done) {
          if (!progress) return;
          const auto so_far = static_cast<double>(done_before + run.progress_base() + done);
          progress(name, std::min(1.0, so_far / all));
        },
        stop, r.result.tensors);
    done_before += run.progress_base();
    total.ww += sums.ww;
    total.wq += sums.wq;
    total.qq += sums.qq;
    total.ee += sums.ee;
    for (WrittenFile& file : run.Close()) files.push_back(std::move(file));
  }
  RefuseChangedSource(r.source);
  WarnOfNonFiniteRows(r.result);
  for (const WrittenFile& file : files) r.result.parquet_bytes += static_cast<std::int64_t>(file.bytes);
  r.result.cosine = Cosine(total);
  r.result.sqnr_db = SqnrDb(total);
  r.result.quantized_path = output.string();
  WriteSideFiles(r.source, options, r.result, files, staging.path());
  staging.Commit();
  r.result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  r.result.peak_memory_mb = PeakMemoryMb();
  if (progress) progress("done", 1.0);
  return std::move(r.result);
}

ModelResult PlanModel(const fs::path& input, const ModelOptions& options, const ModelCalibration& calibration) {
  Resolved r = Resolve(input, options, calibration);
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
