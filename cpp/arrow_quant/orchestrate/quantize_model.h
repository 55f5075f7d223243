#pragma once

#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>

#include "arrow_quant/orchestrate/model_calibration.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/orchestrate/report.h"

namespace arrow_quant {

// Called with what is being done and the share of weights done, in [0, 1], from any thread.
using ProgressFunction = std::function<void(const std::string& message, double fraction)>;

// Reads the model at `input`, quantizes it, and writes Parquet V2 Extended with a manifest to the directory `output`.
//
// Everything is written to the hidden directory ".<output>.partial" beside `output`, which is renamed at the end: a run
// that fails, is cancelled or killed leaves nothing under the name `output`. What it has finished stays in the hidden
// directory where another run may need it: one of the same program, source, options and calibration continues from
// there and gives the same bytes (see RunJournal::Continues for overwrite and resume). A second run on the same output
// is refused with kInvalidArgument while the first goes on. Throws Error.
ModelResult QuantizeModel(const std::filesystem::path& input, const std::filesystem::path& output,
                          const ModelOptions& options, const ProgressFunction& progress = {},
                          const std::stop_token& stop = {}, const ModelCalibration& calibration = {});

// What QuantizeModel would do with each tensor, from headers only: reports without figures. parquet_bytes is an upper
// estimate. Only for mixed precision the weights are read, since it chooses by what it measures.
ModelResult PlanModel(const std::filesystem::path& input, const ModelOptions& options,
                      const ModelCalibration& calibration = {}, const ProgressFunction& progress = {},
                      const std::stop_token& stop = {});

}  // namespace arrow_quant
