#include "arrow_quant/orchestrate/model_calibration.h"

#include <cstddef>

#include "arrow_quant/base/error.h"
#include "arrow_quant/calibrate/time_weights.h"

namespace arrow_quant {

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

}  // namespace arrow_quant
