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
#include "arrow_quant/model/keep_list.h"
#include "arrow_quant/model/source.h"
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
};

struct Resolved {
  ModelSource source;
  std::vector<std::vector<TensorPlan>> plans;  // per component, per tensor
  ModelResult result;
  std::int64_t weights_to_quantize = 0;
};

void RefuseScaledFloat8(const SourceComponent& component) {
  if (component.scale_for.empty()) return;
  const auto& [weight, scale] = *component.scale_for.begin();
  throw Error(ErrorCode::kUnsupported, "an 8-bit float weight with a scale beside it ('" + scale + "')",
              {.tensor = weight, .remedy = "Convert the model to bfloat16 with its own tools first."});
}

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

Resolved Resolve(const fs::path& input, const ModelOptions& options) {
  Resolved r{ResolveModel(input, {.components = options.components, .variant = options.variant}), {}, {}, 0};
  if (r.source.kind == SourceKind::kParquet) {
    throw Error(ErrorCode::kUnsupported, "a Parquet model is no input for quantizing",
                {.file = input.string(), .remedy = "Quantize the safetensors model that it was made from."});
  }
  r.result.source_kind = SourceKindName(r.source.kind);
  r.result.bit_width = options.bit_width;
  r.result.group_size = options.group_size;
  if (options.diffusion) {
    const ModalityDecision decision = DetectModality(r.source, options.modality);
    r.result.modality = ModalityName(decision.modality);
    r.result.modality_reason = decision.reason;
  }
  const KeepList keep({.keep_patterns = options.keep_patterns,
                       .quantize_patterns = options.quantize_patterns,
                       .transposed_patterns = options.transposed_patterns});
  for (const SourceComponent& component : r.source.components) {
    RefuseScaledFloat8(component);
    const auto& tensors = component.checkpoint.tensors();
    r.plans.push_back(PlanTensors(tensors, keep.Decide(tensors, ReadArchitecture(component.config_json, tensors)),
                                  LayerBits(options)));
    for (const std::string& pattern : keep.UnmatchedPatterns(tensors)) {
      r.result.warnings.push_back("pattern '" + pattern + "' fits no tensor");
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      r.result.num_params += tensors[i].num_elements;
      r.result.source_bytes += tensors[i].num_bytes;
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
  ComponentRun(const SourceComponent& component, const fs::path& directory, const std::string& modality)
      : component_(component), writing_(component, directory, modality) {}

  ErrorSums Run(const std::vector<TensorPlan>& plans, const ModelOptions& options,
                const std::function<void(const std::string&, std::int64_t)>& progress, const std::stop_token& stop,
                std::vector<TensorReport>& reports) {
    ErrorSums total;
    for (std::size_t begin = 0; begin < plans.size();) {
      if (stop.stop_requested()) throw Error(ErrorCode::kCancelled, "stopped on request");
      const std::size_t end = BatchEnd(begin);
      auto outcomes = std::make_shared<std::vector<TensorOutcome>>(end - begin);
      ThreadPool::Shared().ParallelFor(
          static_cast<std::int64_t>(end - begin), options.num_threads,
          [&](std::int64_t i) {
            (*outcomes)[static_cast<std::size_t>(i)] =
                QuantizeOne(begin + static_cast<std::size_t>(i), plans, options, progress, stop);
          },
          stop);
      for (const TensorOutcome& outcome : *outcomes) {
        AddSums(outcome.sums, total);
        reports.push_back(outcome.report);
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

  TensorOutcome QuantizeOne(std::size_t i, const std::vector<TensorPlan>& plans, const ModelOptions& options,
                            const std::function<void(const std::string&, std::int64_t)>& progress,
                            const std::stop_token& stop) {
    const TensorInfo& info = component_.checkpoint.tensors()[i];
    TensorOutcome outcome = QuantizeTensor(
        info, component_.checkpoint.Data(info), plans[i].decision, plans[i].bits, options,
        [&](std::int64_t done) { progress(info.name, done); }, stop);
    outcome.report.component = component_.name;
    if (plans[i].decision.quantize) progress_base_ += info.num_elements;
    return outcome;
  }

  void WriteBehind(std::size_t begin, const std::vector<TensorPlan>& plans,
                   std::shared_ptr<std::vector<TensorOutcome>> outcomes) {
    if (pending_.valid()) pending_.get();
    pending_ = std::async(std::launch::async, [this, begin, &plans, outcomes = std::move(outcomes)] {
      for (std::size_t i = 0; i < outcomes->size(); ++i) {
        const TensorInfo& info = component_.checkpoint.tensors()[begin + i];
        writing_.Append(info, plans[begin + i].decision.matrix, (*outcomes)[i]);
        component_.checkpoint.Release(info);
      }
    });
  }

  const SourceComponent& component_;
  ComponentWriting writing_;
  std::atomic<std::int64_t> progress_base_{0};
  std::future<void> pending_;
};

void RefuseChangedSource(const ModelSource& source) {
  for (const SourceComponent& component : source.components) {
    const auto changed = component.checkpoint.ChangedFiles();
    if (changed.empty()) continue;
    throw Error(ErrorCode::kIo, "the source changed while it was read",
                {.file = changed.front().string(), .remedy = "Run again when nothing writes to it."});
  }
}

}  // namespace

ModelResult QuantizeModel(const fs::path& input, const fs::path& output, const ModelOptions& options,
                          const ProgressFunction& progress, const std::stop_token& stop) {
  const auto start = std::chrono::steady_clock::now();
  Resolved r = Resolve(input, options);
  StagingDirectory staging(output, options.overwrite);
  const double all = static_cast<double>(std::max<std::int64_t>(r.weights_to_quantize, 1));
  ErrorSums total;
  std::int64_t done_before = 0;
  std::vector<WrittenFile> files;
  for (std::size_t c = 0; c < r.source.components.size(); ++c) {
    const SourceComponent& component = r.source.components[c];
    ComponentRun run(component, staging.path() / component.directory, r.result.modality);
    const ErrorSums sums = run.Run(
        r.plans[c], options,
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

ModelResult PlanModel(const fs::path& input, const ModelOptions& options) {
  Resolved r = Resolve(input, options);
  for (std::size_t c = 0; c < r.source.components.size(); ++c) {
    const auto& tensors = r.source.components[c].checkpoint.tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const TensorDecision& decision = r.plans[c][i].decision;
      TensorReport report;
      report.name = tensors[i].name;
      report.component = r.source.components[c].name;
      report.dtype = TorchName(tensors[i].dtype);
      report.shape = tensors[i].shape;
      report.role = LayerRoleName(decision.role);
      report.num_params = tensors[i].num_elements;
      report.source_bytes = tensors[i].num_bytes;
      report.stored_bytes = tensors[i].num_bytes;
      report.method = "kept";
      report.reason = decision.reason;
      if (decision.quantize) {
        const std::int64_t cols = decision.matrix.cols;
        report.quantized = true;
        report.reason.clear();
        report.bits = r.plans[c][i].bits;
        report.group_size = options.group_size == -1 ? cols : std::min(options.group_size, cols);
        const std::int64_t groups = (cols + report.group_size - 1) / report.group_size;
        report.tail = cols - (groups - 1) * report.group_size;
        report.method = options.fit == GridFit::kFitted ? "fitted" : "min_max";
        report.stored_bytes = PackedBytes(report.num_params, report.bits) + decision.matrix.rows * groups * 8;
      }
      r.result.parquet_bytes += report.stored_bytes;
      r.result.tensors.push_back(std::move(report));
    }
  }
  return std::move(r.result);
}

}  // namespace arrow_quant
