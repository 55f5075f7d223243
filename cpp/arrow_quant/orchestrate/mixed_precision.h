#pragma once

#include <cstdint>
#include <filesystem>
#include <stop_token>
#include <string>
#include <vector>

#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/orchestrate/report.h"
#include "arrow_quant/orchestrate/width_measuring.h"

namespace arrow_quant {

// Chooses the bits of every layer whose bits are not given, from what MeasureLayers finds. The cost of a layer at a
// width is its relative output error times the sensitivity of the model to that layer's output, 1 where it was not
// measured; a width below min_accuracy is no choice. Within target_error the fewest bytes are chosen; where that is not
// asked for, or does not fit the size, the least cost within the size. Writes the bits into the plans; full sentences
// about what could not be had go to `warnings`. Throws Error kConfiguration under strict where not even the smallest
// choice fits the size, and as MeasureLayers does.
PrecisionReport ChoosePrecision(const std::vector<PrecisionComponent>& components, const TensorContext& context,
                                const std::filesystem::path& file, const MeasuringProgress& progress,
                                const std::stop_token& stop, std::vector<std::string>& warnings);

// The same from figures that are measured already; `kept_bytes` is what the tensors without a choice take.
PrecisionReport ChooseFrom(const MeasuredWidths& measured, std::int64_t kept_bytes, const ModelOptions& options,
                           const std::vector<PrecisionComponent>& components, std::vector<std::string>& warnings);

}  // namespace arrow_quant
