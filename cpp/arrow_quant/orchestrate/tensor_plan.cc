#include "arrow_quant/orchestrate/tensor_plan.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "arrow_quant/base/name_pattern.h"

namespace arrow_quant {
namespace {

// The width of single layers: an exact name, with or without ".weight", before the regular expressions.
class LayerBits {
 public:
  explicit LayerBits(const ModelOptions& options) : rules_(options.layer_bit_widths) {
    for (const auto& [pattern, bits] : rules_) patterns_.emplace_back(pattern, "layer_bit_widths");
  }

  std::optional<int> Of(const std::string& name) const {
    for (const auto& [pattern, bits] : rules_) {
      if (name == pattern || name == pattern + ".weight") return bits;
    }
    for (std::size_t i = 0; i < rules_.size(); ++i) {
      if (patterns_[i].Matches(name)) return rules_[i].second;
    }
    return std::nullopt;
  }

 private:
  std::vector<std::pair<std::string, int>> rules_;
  std::vector<NamePattern> patterns_;
};

const char* MethodName(const Strategy& strategy) {
  return strategy.error_feedback ? "ldlq" : UsesFittedGrid(strategy) ? "fitted" : "min_max";
}

}  // namespace

std::vector<TensorPlan> PlanTensors(const std::vector<TensorInfo>& tensors, std::vector<TensorDecision> decisions,
                                    const ModelOptions& options) {
  const LayerBits layer_bits(options);
  std::vector<NamePattern> protect;
  protect.reserve(options.precision.protect.size());
  for (const std::string& pattern : options.precision.protect) {
    protect.emplace_back(pattern, "sensitive_layer_patterns");
  }
  std::vector<TensorPlan> plans;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].name;
    TensorPlan plan;
    plan.decision = std::move(decisions[i]);
    if (plan.decision.quantize) {
      const auto given = layer_bits.Of(name);
      plan.fixed = given.has_value();
      plan.bits = given.value_or(options.bit_width);
      plan.protect = std::any_of(protect.begin(), protect.end(), [&](const auto& p) { return p.Matches(name); });
    }
    if (plan.bits == 16) plan.decision.quantize = false, plan.decision.reason = "layer_bit_widths says 16";
    plans.push_back(std::move(plan));
  }
  return plans;
}

// A plan's bits are what the user has seen and wants: there is no ladder, and the run warns of what is below.
ModelOptions OptionsOf(const TensorPlan& plan, const ModelOptions& options) {
  ModelOptions own = options;
  if (plan.group_size != 0) own.group_size = plan.group_size;
  if (options.plan) own.min_accuracy = 0;
  return own;
}

Strategy StrategyOf(const TensorPlan& plan, const Strategy& strategy) {
  Strategy own = strategy;
  if (plan.method.empty()) return own;
  own.error_feedback = plan.method == "ldlq";
  if (!own.error_feedback) own.fit = plan.method;
  return own;
}

TensorReport PlannedReport(const TensorInfo& info, const TensorPlan& plan, const ModelOptions& options,
                           const Strategy& strategy) {
  const TensorDecision& decision = plan.decision;
  const bool scaled = plan.scale != nullptr;
  const Strategy own = StrategyOf(plan, strategy);
  TensorReport report;
  report.name = info.name;
  report.dtype = TorchName(scaled ? DType::kBF16 : info.dtype);
  report.shape = info.shape;
  report.role = LayerRoleName(decision.role);
  report.num_params = info.num_elements;
  report.source_bytes = info.num_bytes;
  report.stored_bytes = scaled ? 2 * info.num_elements : info.num_bytes;
  report.method = "kept";
  report.reason = decision.reason;
  if (!decision.quantize) return report;
  const std::int64_t cols = decision.matrix.cols;
  const std::int64_t group_size = plan.group_size != 0 ? plan.group_size : options.group_size;
  report.quantized = true;
  report.reason.clear();
  report.bits = plan.bits;
  report.group_size = group_size == -1 ? cols : std::min(group_size, cols);
  const std::int64_t groups = (cols + report.group_size - 1) / report.group_size;
  report.tail = cols - (groups - 1) * report.group_size;
  report.method = MethodName(own);
  const GridKind grid = own.error_feedback ? AllowedGrids(own, plan.bits).front() : GridKind::kAffine;
  report.grid = GridKindName(grid);
  const std::int64_t group_bytes = grid == GridKind::kResidualBinary ? 12 : 8;
  report.stored_bytes = PackedBytes(report.num_params, report.bits) + decision.matrix.rows * groups * group_bytes;
  return report;
}

}  // namespace arrow_quant
