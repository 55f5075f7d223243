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
#include "arrow_quant/model/keep_list.h"
#include "arrow_quant/model/source.h"
#include "arrow_quant/orchestrate/model_writing.h"
#include "arrow_quant/orchestrate/staging_directory.h"
#include "arrow_quant/orchestrate/tensor_quantizer.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

struct Resolved {
  ModelSource source;
  std::vector<std::vector<TensorDecision>> decisions;  // per component, per tensor
  ModelResult result;
  std::int64_t weights_to_quantize = 0;
};

void RefuseScaledFloat8(const SourceComponent& component) {
  if (component.scale_for.empty()) return;
  const auto& [weight, scale] = *component.scale_for.begin();
  throw Error(ErrorCode::kUnsupported, "an 8-bit float weight with a scale beside it ('" + scale + "')",
              {.tensor = weight, .remedy = "Convert the model to bfloat16 with its own tools first."});
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
    r.decisions.push_back(keep.Decide(tensors, ReadArchitecture(component.config_json, tensors)));
    for (const std::string& pattern : keep.UnmatchedPatterns(tensors)) {
      r.result.warnings.push_back("pattern '" + pattern + "' fits no tensor");
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      r.result.num_params += tensors[i].num_elements;
      r.result.source_bytes += tensors[i].num_bytes;
      if (r.decisions.back()[i].quantize) r.weights_to_quantize += tensors[i].num_elements;
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

// Quantizes the tensors of one component in order. The file of the tensor before is written while the next is
// quantized.
class ComponentRun {
 public:
  ComponentRun(const SourceComponent& component, const fs::path& directory, const std::string& modality)
      : component_(component), writing_(component, directory, modality) {}

  ErrorSums Run(const std::vector<TensorDecision>& decisions, const ModelOptions& options,
                const std::function<void(const std::string&, std::int64_t)>& progress, const std::stop_token& stop,
                std::vector<TensorReport>& reports) {
    ErrorSums total;
    const auto& tensors = component_.checkpoint.tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const TensorInfo& info = tensors[i];
      if (stop.stop_requested()) throw Error(ErrorCode::kCancelled, "stopped on request");
      auto outcome = std::make_shared<TensorOutcome>(QuantizeTensor(
          info, component_.checkpoint.Data(info), decisions[i], options,
          [&](std::int64_t done) { progress(info.name, done); }, stop));
      outcome->report.component = component_.name;
      AddSums(outcome->sums, total);
      if (decisions[i].quantize) progress_base_ += info.num_elements;
      reports.push_back(outcome->report);
      WriteBehind(info, decisions[i], std::move(outcome));
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

  void WriteBehind(const TensorInfo& info, const TensorDecision& decision, std::shared_ptr<TensorOutcome> outcome) {
    if (pending_.valid()) pending_.get();
    pending_ = std::async(std::launch::async, [this, &info, &decision, outcome = std::move(outcome)] {
      writing_.Append(info, decision.matrix, *outcome);
      component_.checkpoint.Release(info);
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
        r.decisions[c], options,
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
      const TensorDecision& decision = r.decisions[c][i];
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
        report.bits = options.bit_width;
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
