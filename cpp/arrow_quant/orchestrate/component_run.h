#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "arrow_quant/model/source.h"
#include "arrow_quant/orchestrate/model_writing.h"
#include "arrow_quant/orchestrate/run_journal.h"
#include "arrow_quant/orchestrate/tensor_plan.h"
#include "arrow_quant/orchestrate/tensor_quantizer.h"

namespace arrow_quant {

// What came of a component.
struct ComponentResult {
  ErrorSums sums;
  std::vector<TensorReport> reports;
  std::vector<WrittenFile> files;
  std::int64_t resumed_tensors = 0;
};

// Where an earlier run of the same key has left what it finished, and where this one does.
struct ComponentJournal {
  RunJournal& journal;
  std::size_t component = 0;  // its number
  bool spool = true;          // keep single tensors, too, not only files
};

// Quantizes the tensors of one component, file by file and in each batch by batch. A batch is written while the next is
// quantized. What the journal holds is taken from there.
class ComponentRun {
 public:
  using Progress = std::function<void(const std::string& tensor, std::int64_t weights)>;

  ComponentRun(const SourceComponent& component, const std::filesystem::path& directory, const std::string& modality,
               const TensorContext& context, const ComponentJournal& journal);

  // `plans` has one entry per tensor. Throws Error: as QuantizeTensor, and kIo where the source changed or cannot be
  // read.
  ComponentResult Run(const std::vector<TensorPlan>& plans, const Progress& progress, const std::stop_token& stop);

  // Weights of the tensors that are done.
  std::int64_t progress_base() const { return progress_base_; }

 private:
  struct Job {
    const std::vector<TensorPlan>& plans;
    const Progress& progress;
    const std::stop_token& stop;
  };
  using Outcomes = std::vector<TensorOutcome>;

  std::size_t FileEnd(std::size_t begin) const;
  std::size_t BatchEnd(std::size_t begin, std::size_t file_end) const;
  bool TakeFinished(std::size_t begin, std::size_t end, const Job& job);
  void RunFile(std::size_t begin, std::size_t end, const Job& job);
  std::size_t Replay(std::size_t begin, std::size_t end, const Job& job, OutcomeSpoolReader& spool);
  void FinishFile(RunJournal::FileId id);
  std::shared_ptr<Outcomes> QuantizeBatch(std::size_t begin, std::size_t end, const Job& job);
  TensorOutcome QuantizeOne(std::size_t i, const Job& job);
  void Spool(std::size_t begin, const Job& job, const Outcomes& outcomes);
  void Write(std::size_t i, const Job& job, const TensorOutcome& outcome);
  void WriteBehind(std::size_t begin, const Job& job, std::shared_ptr<Outcomes> outcomes);
  void WaitForWriting();
  void Take(const ErrorSums& sums, const TensorReport& report);
  RunJournal::FileId IdOf(std::size_t tensor) const;

  const SourceComponent& component_;
  std::filesystem::path directory_;
  ComponentWriting writing_;
  TensorContext context_;
  ComponentJournal journal_;
  std::optional<OutcomeSpool> spool_;     // of the file that is being written
  std::vector<FinishedTensor> finished_;  // its tensors
  ComponentResult result_;
  std::atomic<std::int64_t> progress_base_{0};
  std::future<void> pending_;
};

}  // namespace arrow_quant
