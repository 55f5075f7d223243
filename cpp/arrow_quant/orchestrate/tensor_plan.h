#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arrow_quant/io/tensor_info.h"
#include "arrow_quant/model/keep_list.h"
#include "arrow_quant/model/scale_plan.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/orchestrate/report.h"
#include "arrow_quant/orchestrate/strategy.h"

namespace arrow_quant {

// What one tensor gets.
struct TensorPlan {
  TensorDecision decision;
  int bits = 0;
  const ScaleShape* scale = nullptr;  // of an 8-bit float weight
  bool merged = false;                // is itself such a scale, and ends with its weight
  bool fixed = false;                 // its bits were given by name, which mixed precision leaves
  bool protect = false;               // mixed precision gives it 8 bits at least
  // Of a saved plan:
  std::int64_t group_size = 0;  // 0: the run's
  std::string method;           // "ldlq", "min_max", "fitted"; empty: the strategy's
};

// By the keep list and layer_bit_widths: one for each tensor.
std::vector<TensorPlan> PlanTensors(const std::vector<TensorInfo>& tensors, std::vector<TensorDecision> decisions,
                                    const ModelOptions& options);

// How a tensor with this plan is quantized, from what the whole run does.
ModelOptions OptionsOf(const TensorPlan& plan, const ModelOptions& options);
Strategy StrategyOf(const TensorPlan& plan, const Strategy& strategy);

// What a tensor will get, from its header; stored_bytes is an upper estimate.
TensorReport PlannedReport(const TensorInfo& info, const TensorPlan& plan, const ModelOptions& options,
                           const Strategy& strategy);

}  // namespace arrow_quant
