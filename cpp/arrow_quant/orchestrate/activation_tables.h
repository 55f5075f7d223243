#pragma once

#include <string>

#include "arrow_quant/base/matrix_view.h"
#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/io/tensor_info.h"
#include "arrow_quant/model/matrix_shape.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/orchestrate/report.h"
#include "arrow_quant/quantize/spatial/input_transform.h"
#include "arrow_quant/quantize/time_aware/activation_table.h"

namespace arrow_quant {

struct ActivationOutcome {
  ActivationTable table;
  ActivationReport report;
  double group_error = 0;           // relative output error on held-out rows, the mean over time groups; 0 without rows
  std::string fallback_cause = {};  // why the table is shared where time-aware ranges were wanted
};

// How the columns of a tensor's matrix view read the layer's input.
InputLayout InputLayoutOf(const TensorInfo& info, const MatrixShape& matrix, std::int64_t inputs);

// Ranges for the input of a layer with the quantized weight [rows, cols]: per time group and block of channels, or one
// for all times and channels where that is asked for (not `time_aware`, or one group) or no worse on held-out rows.
// `inputs` must fit the weight. `transform` is what the layer does to its input before it becomes codes, and `weight`
// what it multiplies those by; the table has the transform's shift.
ActivationOutcome MakeActivationTable(MatrixView<const float> weight, const LayerInputs& inputs,
                                      const InputTransform& transform, const TimeGroups& seen_groups,
                                      const InputLayout& layout, const ActivationOptions& options, bool time_aware);

// What the JSON column of the older layout can say about a table: the whole range of each group.
std::string TimeAwareJson(const ActivationTable& table);

}  // namespace arrow_quant
