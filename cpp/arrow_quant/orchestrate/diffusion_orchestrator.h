#pragma once

#include <filesystem>
#include <stop_token>

#include "arrow_quant/orchestrate/config.h"
#include "arrow_quant/orchestrate/quantize_model.h"
#include "arrow_quant/orchestrate/report.h"

namespace arrow_quant {

// What a run does besides its configuration.
struct RunOptions {
  bool diffusion = true;   // false: any model, no modality asked for
  bool overwrite = false;  // replace an output directory that is there
  bool resume = true;      // continue an interrupted run, see QuantizeModel
};

// Quantizes whole models by one configuration. Immutable, so that threads may share it; its runs share one thread pool.
//
//   const DiffusionOrchestrator orchestrator(DiffusionQuantConfig::FromProfile("local"));
//   const ModelResult result = orchestrator.QuantizeModel("models/x", "models/x-int4");
class DiffusionOrchestrator {
 public:
  // Throws Error kConfiguration for a value out of its range, values that contradict each other, and what this version
  // cannot do.
  explicit DiffusionOrchestrator(DiffusionQuantConfig config, const RunOptions& run = {});

  // Reads the model at `input` (a .safetensors file, an index, or a model's directory) and writes Parquet V2 Extended
  // with a manifest to the directory `output`, as the free function of the same name. Throws Error; nothing is then
  // under `output`, and a run of the same source and configuration continues what was finished. A stop request ends the
  // run with kCancelled. An exception of `progress` ends it, too. Activations are used where `calibration` has them;
  // the configuration's key of that name is the caller's to act on.
  ModelResult QuantizeModel(const std::filesystem::path& input, const std::filesystem::path& output,
                            const ProgressFunction& progress = {}, const std::stop_token& stop = {},
                            const ModelCalibration& calibration = {}) const;

  // What QuantizeModel would do with each tensor, from headers only; parquet_bytes is an upper estimate. Throws Error.
  ModelResult PlanModel(const std::filesystem::path& input, const ModelCalibration& calibration = {}) const;

  const DiffusionQuantConfig& config() const { return config_; }

 private:
  DiffusionQuantConfig config_;
  ModelOptions options_;
};

}  // namespace arrow_quant
