#include "arrow_quant/orchestrate/mixed_precision.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/orchestrate/bit_allocation.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

std::string Megabytes(std::int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f MB", static_cast<double>(bytes) / 1e6);
  return text;
}

double SensitivityOf(const PrecisionOptions& options, const std::string& component, const std::string& name) {
  const auto layers = options.sensitivity.find(component);
  if (layers == options.sensitivity.end()) return 1;
  const auto found = layers->second.find(name);
  return found == layers->second.end() ? 1 : found->second;
}

BitChoice ChoiceOf(const WidthFigures& width, double sensitivity) {
  const double cost = sensitivity * width.error;
  return {width.bits, width.bytes, std::isfinite(cost) ? cost : std::numeric_limits<double>::max() / 1e9};
}

// What may be chosen: nothing below min_accuracy, which the run would only give more bits again.
LayerChoices ChoicesOf(const LayerWidths& layer, bool fixed, double min_accuracy) {
  LayerChoices choices;
  for (const WidthFigures& width : layer.widths) {
    if (fixed || width.cosine >= min_accuracy) choices.push_back(ChoiceOf(width, layer.sensitivity));
  }
  return choices;
}

// All layers at one width, those that lack it at their next wider one.
UniformFigures UniformOf(int bits, const PrecisionReport& report) {
  UniformFigures sum{bits, report.kept_bytes, 0};
  for (const LayerWidths& layer : report.layers) {
    const auto wide =
        std::find_if(layer.widths.begin(), layer.widths.end(), [&](const auto& w) { return w.bits >= bits; });
    const WidthFigures& width = wide == layer.widths.end() ? layer.widths.back() : *wide;
    sum.bytes += width.bytes;
    sum.error += layer.sensitivity * width.error;
  }
  return sum;
}

void WarnOrThrow(const std::string& message, const PrecisionReport& report, const PrecisionOptions& options,
                 std::vector<std::string>& warnings) {
  if (options.strict) {
    throw Error(ErrorCode::kConfiguration, message,
                {.remedy = "Set target_size_mb to " + Megabytes(report.smallest_bytes) +
                           " or more, lower min_accuracy, or quantize more tensors (quantize_patterns)."});
  }
  warnings.push_back(message);
}

// The choice, and what it could not have.
class Choosing {
 public:
  Choosing(const std::vector<LayerChoices>& layers, const PrecisionOptions& options, PrecisionReport& report,
           std::vector<std::string>& warnings)
      : layers_(layers), options_(options), report_(report), warnings_(warnings) {
    // Without a budget there is one only where no error is asked for.
    if (options.size_mb) {
      limit_ = static_cast<std::int64_t>(std::min(*options.size_mb * 1e6, 9e18)) - report.kept_bytes;
    } else if (!options.target_error) {
      limit_ = report.budget_bytes - report.kept_bytes;
    }
  }

  Allocation Choose() {
    const std::int64_t smallest = SmallestAllocation(layers_).bytes;
    report_.smallest_bytes = report_.kept_bytes + smallest;
    if (smallest > limit_) {
      WarnOrThrow("the smallest possible model has " + Megabytes(report_.smallest_bytes) + ", more than the " +
                      Megabytes(limit_ + report_.kept_bytes) + " of target_size_mb",
                  report_, options_, warnings_);
    }
    if (options_.target_error) {
      if (auto within = WithinError(*options_.target_error)) return *within;
    }
    return CheapestAllocation(layers_, limit_);
  }

  std::int64_t limit() const { return limit_; }

 private:
  // Nothing where the size permits no such error.
  std::optional<Allocation> WithinError(double target) {
    Allocation found = SmallestAllocationWithin(layers_, target);
    char text[128];
    if (found.cost > target) {
      std::snprintf(text, sizeof(text), "no choice of bits has the target_error of %.3g: the least is %.3g", target,
                    found.cost);
      warnings_.emplace_back(text);
    }
    if (found.bytes <= limit_) return found;
    std::snprintf(text, sizeof(text), "a target_error of %.3g needs %s, more than target_size_mb", target,
                  Megabytes(found.bytes + report_.kept_bytes).c_str());
    warnings_.emplace_back(text);
    return std::nullopt;
  }

  const std::vector<LayerChoices>& layers_;
  const PrecisionOptions& options_;
  PrecisionReport& report_;
  std::vector<std::string>& warnings_;
  std::int64_t limit_ = kNoLimit;  // of the layers together
};

void Write(int bits, TensorPlan& plan) {
  if (plan.fixed) return;
  plan.bits = bits == 16 ? 0 : bits;
  plan.decision.quantize = bits != 16;
  if (bits == 16) plan.decision.reason = "mixed precision keeps it";
}

// A budget that the whole model fits into is most often a profile's default that nobody has thought of.
void WarnOfNothingToDo(const PrecisionReport& report, std::vector<std::string>& warnings) {
  const bool all_kept = std::all_of(report.layers.begin(), report.layers.end(),
                                    [](const LayerWidths& layer) { return layer.bits == 16; });
  if (!all_kept || report.layers.empty()) return;
  warnings.push_back("mixed precision keeps every layer: the whole model fits into " + Megabytes(report.budget_bytes) +
                     ". Set target_size_mb to the size that is wanted");
}

}  // namespace

PrecisionReport ChooseFrom(const MeasuredWidths& measured, std::int64_t kept_bytes, const ModelOptions& options,
                           const std::vector<PrecisionComponent>& components, std::vector<std::string>& warnings) {
  PrecisionReport report;
  report.kept_bytes = kept_bytes;
  report.sensitivity_measured = !options.precision.sensitivity.empty();
  report.target_error = options.precision.target_error.value_or(0);
  std::vector<TensorPlan*> plans;
  std::vector<LayerChoices> layers;
  for (const auto& [number, widths] : measured) {
    if (widths.empty()) continue;  // NaN or Inf, which the run itself refuses or keeps
    const PrecisionComponent& component = components[number.first];
    plans.push_back(&component.plans[number.second]);
    const std::string& name = component.source.checkpoint.tensors()[number.second].name;
    report.layers.push_back(
        {name, component.source.name, 0, SensitivityOf(options.precision, component.source.name, name), widths});
    layers.push_back(ChoicesOf(report.layers.back(), plans.back()->fixed, options.min_accuracy));
  }
  for (const int bits : {2, 3, 4, 8}) {
    report.uniform.push_back(UniformOf(bits, report));
    if (bits == options.bit_width) report.budget_bytes = report.uniform.back().bytes;
  }
  Choosing choosing(layers, options.precision, report, warnings);
  const Allocation chosen = choosing.Choose();
  report.expected_bytes = kept_bytes + chosen.bytes;
  report.budget_bytes = choosing.limit() == kNoLimit ? report.expected_bytes : choosing.limit() + kept_bytes;
  report.error = chosen.cost;
  report.greedy_error = GreedyAllocation(layers, report.budget_bytes - kept_bytes).cost;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    report.layers[l].bits = layers[l][chosen.chosen[l]].bits;
    Write(report.layers[l].bits, *plans[l]);
  }
  if (!report.sensitivity_measured) {
    warnings.emplace_back(
        "the errors of all layers count alike: how sensitive the model is to each was not measured, which needs a "
        "model "
        "that can be sampled, and calibration");
  }
  WarnOfNothingToDo(report, warnings);
  return report;
}

PrecisionReport ChoosePrecision(const std::vector<PrecisionComponent>& components, const TensorContext& context,
                                const std::filesystem::path& file, const MeasuringProgress& progress,
                                const std::stop_token& stop, std::vector<std::string>& warnings) {
  const MeasuredWidths measured = MeasureLayers(components, context, file, progress, stop);
  return ChooseFrom(measured, KeptBytes(components), context.options, components, warnings);
}

}  // namespace arrow_quant
