#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/model/source.h"
#include "arrow_quant/orchestrate/report.h"
#include "arrow_quant/orchestrate/tensor_plan.h"
#include "arrow_quant/orchestrate/tensor_quantizer.h"

namespace arrow_quant {

// A component whose layers get their bits by mixed precision, and what its tensors get: one plan for each.
struct PrecisionComponent {
  const SourceComponent& source;
  std::vector<TensorPlan>& plans;
};

// Called with the layer that is measured and the share of weights done.
using MeasuringProgress = std::function<void(const std::string& tensor, double fraction)>;

// Number of a component and of a tensor in it.
using TensorNumber = std::pair<std::size_t, std::size_t>;
// 16 bits last; empty for a weight with NaN or Inf.
using MeasuredWidths = std::map<TensorNumber, std::vector<WidthFigures>>;

// Widths that a layer is measured at: the given one, 8 where it is protected, else 2, 3, 4 and 8.
std::vector<int> WidthsToMeasure(const TensorPlan& plan);

// Quantizes every layer that is to be quantized at every width that it may have and keeps the figures only, so that it
// takes the memory of a run. What is measured is appended to `file`, which holds it as lines of JSON for a run that
// continues; an empty path keeps nothing. Independent of the number of threads. Throws Error kCancelled, kIo.
MeasuredWidths MeasureLayers(const std::vector<PrecisionComponent>& components, const TensorContext& context,
                             const std::filesystem::path& file, const MeasuringProgress& progress,
                             const std::stop_token& stop);

// Bytes on disk of the tensors that are kept whatever is chosen.
std::int64_t KeptBytes(const std::vector<PrecisionComponent>& components);

}  // namespace arrow_quant
