#include "arrow_quant/orchestrate/diffusion_orchestrator.h"

#include <utility>

namespace arrow_quant {
namespace {

ModelOptions OptionsOf(const DiffusionQuantConfig& config, const RunOptions& run) {
  ModelOptions options = ModelOptionsFromConfig(config);
  options.diffusion = run.diffusion;
  options.overwrite = run.overwrite;
  options.resume = run.resume;
  return options;
}

}  // namespace

DiffusionOrchestrator::DiffusionOrchestrator(DiffusionQuantConfig config, const RunOptions& run)
    : config_(std::move(config)), options_(OptionsOf(config_, run)) {}

ModelResult DiffusionOrchestrator::QuantizeModel(const std::filesystem::path& input,
                                                 const std::filesystem::path& output, const ProgressFunction& progress,
                                                 const std::stop_token& stop,
                                                 const ModelCalibration& calibration) const {
  return arrow_quant::QuantizeModel(input, output, options_, progress, stop, calibration);
}

ModelResult DiffusionOrchestrator::PlanModel(const std::filesystem::path& input,
                                             const ModelCalibration& calibration) const {
  return arrow_quant::PlanModel(input, options_, calibration);
}

}  // namespace arrow_quant
