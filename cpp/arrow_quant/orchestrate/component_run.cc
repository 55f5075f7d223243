#include "arrow_quant/orchestrate/component_run.h"

#include <system_error>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/orchestrate/float8_weight.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

// Tensors quantized side by side: at most so many, and so many weights together.
constexpr std::size_t kBatchTensors = 64;
constexpr std::int64_t kBatchWeights = std::int64_t{1} << 22;

void AddSums(const ErrorSums& part, ErrorSums& total) {
  total.ww += part.ww;
  total.wq += part.wq;
  total.qq += part.qq;
  total.ee += part.ee;
}

struct WaitAtEnd {
  const std::future<void>& future;
  ~WaitAtEnd() {
    if (future.valid()) future.wait();
  }
};

// A weight with its scale applied; where it is kept, it is stored as bfloat16.
template <typename Quantize>
TensorOutcome QuantizeFloat8(const Checkpoint& checkpoint, const TensorInfo& info, const ScaleShape& scale,
                             const Quantize& quantize) {
  const ExpandedWeight weight = ExpandFloat8(checkpoint, info, scale);
  TensorOutcome outcome = quantize(weight.info, weight.bytes());
  outcome.report.dtype = TorchName(DType::kBF16);
  outcome.report.source_bytes = info.num_bytes;
  if (outcome.report.quantized) return outcome;
  outcome.replacement = ToBFloat16Bytes(weight.values);
  outcome.report.stored_bytes = static_cast<std::int64_t>(outcome.replacement.size());
  outcome.report.reason += "; stored as bfloat16 with its scale applied";
  return outcome;
}

}  // namespace

ComponentRun::ComponentRun(const SourceComponent& component, const fs::path& directory, const std::string& modality,
                           const TensorContext& context, const ComponentJournal& journal)
    : component_(component),
      directory_(directory),
      writing_(component, directory, modality),
      context_(context),
      journal_(journal) {}

ComponentResult ComponentRun::Run(const std::vector<TensorPlan>& plans, const Progress& progress,
                                  const std::stop_token& stop) {
  const Job job{plans, progress, stop};
  // What is being written refers to the job, also when an error ends this.
  const WaitAtEnd wait{pending_};
  for (std::size_t begin = 0; begin < plans.size();) {
    const std::size_t end = FileEnd(begin);
    if (!TakeFinished(begin, end, job)) RunFile(begin, end, job);
    begin = end;
  }
  return std::move(result_);
}

RunJournal::FileId ComponentRun::IdOf(std::size_t tensor) const {
  return {journal_.component, component_.checkpoint.tensors()[tensor].file_index};
}

std::size_t ComponentRun::FileEnd(std::size_t begin) const {
  const auto& tensors = component_.checkpoint.tensors();
  std::size_t end = begin + 1;
  while (end < tensors.size() && tensors[end].file_index == tensors[begin].file_index) ++end;
  return end;
}

// Small tensors are quantized side by side, a large one by its rows.
std::size_t ComponentRun::BatchEnd(std::size_t begin, std::size_t file_end) const {
  const auto& tensors = component_.checkpoint.tensors();
  std::int64_t weights = tensors[begin].num_elements;
  std::size_t end = begin + 1;
  while (end < file_end && end - begin < kBatchTensors && weights + tensors[end].num_elements <= kBatchWeights) {
    weights += tensors[end++].num_elements;
  }
  return end;
}

void ComponentRun::Take(const ErrorSums& sums, const TensorReport& report) {
  AddSums(sums, result_.sums);
  result_.reports.push_back(report);
}

bool ComponentRun::TakeFinished(std::size_t begin, std::size_t end, const Job& job) {
  auto file = journal_.journal.Finished(IdOf(begin), directory_);
  if (!file) return false;
  for (const FinishedTensor& tensor : file->tensors) Take(tensor.sums, tensor.report);
  for (std::size_t i = begin; i < end; ++i) {
    if (job.plans[i].decision.quantize) progress_base_ += component_.checkpoint.tensors()[i].num_elements;
  }
  result_.resumed_tensors += static_cast<std::int64_t>(file->tensors.size());
  if (!file->name.empty()) {
    result_.files.push_back({directory_ / file->name, file->bytes, std::move(file->checksum), file->records});
  }
  job.progress("continuing", 0);
  return true;
}

void ComponentRun::RunFile(std::size_t begin, std::size_t end, const Job& job) {
  const RunJournal::FileId id = IdOf(begin);
  OutcomeSpoolReader finished(journal_.journal.SpoolPath(id));
  begin = Replay(begin, end, job, finished);
  if (journal_.spool) spool_.emplace(journal_.journal.SpoolPath(id), finished.valid_bytes());
  while (begin < end) {
    if (job.stop.stop_requested()) throw Error(ErrorCode::kCancelled, "stopped on request");
    const std::size_t batch_end = BatchEnd(begin, end);
    auto outcomes = QuantizeBatch(begin, batch_end, job);
    Spool(begin, job, *outcomes);
    WriteBehind(begin, job, std::move(outcomes));
    begin = batch_end;
  }
  WaitForWriting();
  FinishFile(id);
}

// Writes what an earlier run has quantized; the first tensor that it has not.
std::size_t ComponentRun::Replay(std::size_t begin, std::size_t end, const Job& job, OutcomeSpoolReader& spool) {
  for (; begin < end; ++begin) {
    if (job.plans[begin].merged) continue;
    if (job.stop.stop_requested()) throw Error(ErrorCode::kCancelled, "stopped on request");
    const auto outcome = spool.Next();
    if (!outcome) return begin;
    const TensorInfo& info = component_.checkpoint.tensors()[begin];
    Write(begin, job, *outcome);
    if (job.plans[begin].decision.quantize) progress_base_ += info.num_elements;
    ++result_.resumed_tensors;
    job.progress(info.name, 0);
  }
  return end;
}

// The file, then what says that it is there: a run that is killed in between writes the same file again.
void ComponentRun::FinishFile(RunJournal::FileId id) {
  FinishedFile finished;
  finished.tensors = std::exchange(finished_, {});
  if (auto file = writing_.CloseFile()) {
    finished.name = file->path.filename().string();
    finished.bytes = file->bytes;
    finished.checksum = file->checksum;
    finished.records = file->records;
    result_.files.push_back(std::move(*file));
  }
  component_.checkpoint.RefuseChanged();
  spool_.reset();
  journal_.journal.Finish(id, finished);
}

std::shared_ptr<ComponentRun::Outcomes> ComponentRun::QuantizeBatch(std::size_t begin, std::size_t end,
                                                                    const Job& job) {
  auto outcomes = std::make_shared<Outcomes>(end - begin);
  try {
    ThreadPool::Shared().ParallelFor(
        static_cast<std::int64_t>(end - begin), context_.options.num_threads,
        [&](std::int64_t i) {
          (*outcomes)[static_cast<std::size_t>(i)] = QuantizeOne(begin + static_cast<std::size_t>(i), job);
        },
        job.stop);
  } catch (const Error&) {
    component_.checkpoint.RefuseChanged();  // what was read then explains the failure
    throw;
  }
  return outcomes;
}

TensorOutcome ComponentRun::QuantizeOne(std::size_t i, const Job& job) {
  const TensorInfo& info = component_.checkpoint.tensors()[i];
  const TensorPlan& plan = job.plans[i];
  if (plan.merged) return {};
  const ModelOptions options = OptionsOf(plan, context_.options);
  const Strategy strategy = StrategyOf(plan, context_.strategy);
  const TensorContext context{options, strategy, context_.calibration, context_.equalization};
  const auto quantize = [&](const TensorInfo& tensor, std::span<const std::byte> bytes) {
    return QuantizeTensor(
        {tensor, bytes, plan.decision, plan.bits, component_.name}, context,
        [&](std::int64_t done) { job.progress(info.name, done); }, job.stop);
  };
  TensorOutcome outcome = plan.scale == nullptr ? quantize(info, component_.checkpoint.Data(info))
                                                : QuantizeFloat8(component_.checkpoint, info, *plan.scale, quantize);
  if (plan.decision.quantize) progress_base_ += info.num_elements;
  return outcome;
}

// Once it is sure that the source was what it was, and while the batch before is written to the file.
void ComponentRun::Spool(std::size_t begin, const Job& job, const Outcomes& outcomes) {
  component_.checkpoint.RefuseChanged();
  for (std::size_t i = 0; spool_ && i < outcomes.size(); ++i) {
    if (!job.plans[begin + i].merged) spool_->Append(outcomes[i]);
  }
}

void ComponentRun::Write(std::size_t i, const Job& job, const TensorOutcome& outcome) {
  const TensorInfo& info = component_.checkpoint.tensors()[i];
  writing_.Append(info, job.plans[i].decision.matrix, outcome);
  component_.checkpoint.Release(info);
  Take(outcome.sums, outcome.report);
  finished_.push_back({outcome.sums, outcome.report});
}

void ComponentRun::WriteBehind(std::size_t begin, const Job& job, std::shared_ptr<Outcomes> outcomes) {
  WaitForWriting();
  pending_ = std::async(std::launch::async, [this, begin, &job, outcomes = std::move(outcomes)] {
    for (std::size_t i = 0; i < outcomes->size(); ++i) {
      if (!job.plans[begin + i].merged) Write(begin + i, job, (*outcomes)[i]);
    }
  });
}

void ComponentRun::WaitForWriting() {
  if (pending_.valid()) pending_.get();
}

}  // namespace arrow_quant
