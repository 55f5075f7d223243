#include "arrow_quant/orchestrate/apply_plan.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

std::string ShapeText(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t d : shape) text += (text.empty() ? "" : "x") + std::to_string(d);
  return text.empty() ? "scalar" : text;
}

class Applying {
 public:
  Applying(const SavedPlan& plan, const Strategy& strategy) : file_(plan.file), strategy_(strategy) {
    for (const PlannedTensor& tensor : plan.tensors) left_.emplace(std::pair(tensor.component, tensor.name), &tensor);
  }

  void Tensor(const std::string& component, const TensorInfo& info, TensorPlan& plan) {
    const auto found = left_.find({component, info.name});
    if (plan.merged) {
      if (found != left_.end()) left_.erase(found);
      return;
    }
    if (found == left_.end()) Refuse(info.name, "the model's tensor is not in the plan, which is of another model", "");
    const PlannedTensor& wanted = *found->second;
    if (wanted.shape != info.shape) {
      Refuse(info.name,
             "shape is " + ShapeText(wanted.shape) + " in the plan and " + ShapeText(info.shape) +
                 " in the model: the plan is of another model",
             "");
    }
    Apply(wanted, info, plan);
    left_.erase(found);
  }

  // What is left are tensors that the model lacks.
  void Finish() const {
    if (left_.empty()) return;
    Refuse(left_.begin()->first.second, "name: the model has no such tensor, the plan is of another model or misspelt",
           "");
  }

 private:
  [[noreturn]] void Refuse(const std::string& tensor, const std::string& what, const std::string& remedy) const {
    throw Error(
        ErrorCode::kConfiguration, what,
        {.file = file_,
         .tensor = tensor,
         .remedy = remedy.empty() ? "Make the plan again with arrow-quant quantize MODEL --save-plan FILE." : remedy});
  }

  // A plan shows the columns of a row where a group holds all of them.
  void CheckGroupSize(const PlannedTensor& wanted, std::int64_t cols) const {
    constexpr std::array<std::int64_t, 7> kSizes = {0, -1, 16, 32, 64, 128, 256};
    if (std::find(kSizes.begin(), kSizes.end(), wanted.group_size) != kSizes.end() || wanted.group_size == cols) return;
    Refuse(wanted.name,
           "the plan's group_size is " + std::to_string(wanted.group_size) + ", and a row has " + std::to_string(cols) +
               " columns",
           "Use 16, 32, 64, 128 or 256, or -1 for a whole row.");
  }

  void Apply(const PlannedTensor& wanted, const TensorInfo& info, TensorPlan& plan) const {
    if (wanted.bits == 16) {
      if (plan.decision.quantize) plan.decision.reason = "the plan keeps it";
      plan.decision.quantize = false;
      plan.bits = 0;
      return;
    }
    if (!IsFloat(info.dtype) || info.shape.size() < 2 || info.num_elements == 0) {
      Refuse(info.name,
             "bits is " + std::to_string(wanted.bits) + ", but a tensor " + ShapeText(info.shape) + " of " +
                 std::string(TorchName(info.dtype)) + " cannot be quantized",
             "Leave bits out, or 16.");
    }
    CheckGroupSize(wanted, plan.decision.matrix.cols);
    if (wanted.method == "ldlq" && !strategy_.has_activations) {
      Refuse(info.name, "method is ldlq, which needs activations",
             "Give a calibration, or set method to fitted or min_max.");
    }
    plan.decision.quantize = true;
    plan.bits = wanted.bits;
    plan.group_size = wanted.group_size;
    plan.method = wanted.method;
  }

  std::string file_;
  const Strategy& strategy_;
  std::map<std::pair<std::string, std::string>, const PlannedTensor*> left_;
};

}  // namespace

void ApplyPlan(const SavedPlan& plan, const ModelSource& source, const Strategy& strategy,
               std::vector<std::vector<TensorPlan>>& plans) {
  Applying applying(plan, strategy);
  for (std::size_t c = 0; c < source.components.size(); ++c) {
    const auto& tensors = source.components[c].checkpoint.tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      applying.Tensor(source.components[c].name, tensors[i], plans[c][i]);
    }
  }
  applying.Finish();
}

void WarnOfPlannedLosses(double min_accuracy, ModelResult& result) {
  std::string layers;
  std::int64_t count = 0;
  for (const TensorReport& report : result.tensors) {
    const double cosine = report.calibrated ? report.output_cosine : report.cosine;
    if (!report.quantized || cosine >= min_accuracy) continue;
    if (++count <= 3) layers += (layers.empty() ? "'" : ", '") + report.name + "'";
  }
  if (count == 0) return;
  if (count > 3) layers += " and " + std::to_string(count - 3) + " more";
  result.warnings.push_back("the plan's bits leave layers below min_accuracy: " + layers);
}

}  // namespace arrow_quant
