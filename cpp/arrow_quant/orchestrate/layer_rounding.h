#pragma once

#include <optional>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/matrix_view.h"
#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/model/modality.h"
#include "arrow_quant/orchestrate/model_options.h"

namespace arrow_quant {

// The values [rows, cols] that a run with `options` leaves of one layer's weight at `bits`, but for its fallbacks: what
// layers that are calibrated later are to see of it. Nearest rounding where `statistics` have no use for it. Throws as
// RoundWithHessian, and Error kConfiguration as TimeWeightsOf.
AlignedVector<float> RoundLayer(MatrixView<const float> weight, const LayerKey& layer, int bits,
                                const StatisticsSource& statistics, const std::optional<Modality>& modality,
                                const ModelOptions& options);

}  // namespace arrow_quant
