#pragma once

#include <vector>

#include "arrow_quant/model/source.h"
#include "arrow_quant/orchestrate/report.h"
#include "arrow_quant/orchestrate/saved_plan.h"
#include "arrow_quant/orchestrate/strategy.h"
#include "arrow_quant/orchestrate/tensor_plan.h"

namespace arrow_quant {

// Gives the tensors of a model what a saved plan says; `plans` has a list per component. Throws Error kConfiguration,
// naming the tensor and the key, where the plan is of another model (a tensor that only one of them has, another
// shape), and where it asks for what a tensor cannot have.
void ApplyPlan(const SavedPlan& plan, const ModelSource& source, const Strategy& strategy,
               std::vector<std::vector<TensorPlan>>& plans);

// Says which layers the plan leaves below min_accuracy, which changes nothing about them.
void WarnOfPlannedLosses(double min_accuracy, ModelResult& result);

}  // namespace arrow_quant
