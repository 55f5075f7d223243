#include "arrow_quant/orchestrate/strategy.h"

#include <algorithm>

namespace arrow_quant {
namespace {

// A model without diffusion logic; it is still rounded as well as the activations allow.
constexpr StrategyRow kBaseRow = {Modality::kText, StrategyMethod::kGptq, false, false, false};

const StrategyRow& RowFor(std::optional<Modality> modality) {
  if (!modality) return kBaseRow;
  return *std::find_if(kStrategyTable.begin(), kStrategyTable.end(),
                       [&](const StrategyRow& row) { return row.modality == *modality; });
}

StrategyMethod MethodFor(const std::string& configured, StrategyMethod fallback) {
  if (configured == "gptq") return StrategyMethod::kGptq;
  if (configured == "r2q") return StrategyMethod::kR2q;
  if (configured == "none") return StrategyMethod::kNone;
  return fallback;
}

// "always" and "never" overrule the table; "auto" takes its word where the older switch allows it.
bool Overrule(const std::string& configured, bool table, bool enabled) {
  if (configured == "always") return true;
  if (configured == "never") return false;
  return table && enabled;
}

// "auto" means nothing unless the strategy is spatial; a transform that is named is wanted anywhere, but for
// strategy_spatial "never".
Use UseOf(const std::string& configured, const char* name, bool spatial) {
  if (configured == name) return Use::kAlways;
  return configured == "auto" && spatial ? Use::kAuto : Use::kNever;
}

SpatialChoice TransformsOf(const DiffusionQuantConfig& config, bool spatial) {
  SpatialChoice choice;
  const std::string& equalization = config.equalization;
  choice.columns = equalization == "auto";
  if (config.strategy_spatial == "never") return choice;
  choice.balance = equalization == "balance" || (equalization == "auto" && spatial);
  choice.grid = equalization == "grid" || (equalization == "auto" && spatial);
  choice.shift = UseOf(config.smoothing, "shift", spatial);
  choice.rotation = UseOf(config.hadamard, "block", spatial);
  choice.demanded_way = equalization == "balance" || equalization == "grid" || choice.rotation == Use::kAlways;
  choice.demanded = choice.demanded_way || choice.shift == Use::kAlways || config.strategy_spatial == "always";
  return choice;
}

void DropWhatNeedsActivations(Strategy& strategy) {
  const auto drop = [&](bool& part, const char* note) {
    if (part) strategy.notes.emplace_back(note);
    part = false;
  };
  drop(strategy.error_feedback, "Rounding is to the nearest value: error feedback needs activations.");
  drop(strategy.time_aware, "No parameters per time group: they need activations.");
  drop(strategy.spatial, "No equalization: it needs activations.");
  strategy.transforms = {};
  strategy.time_aware_activations = false;
}

}  // namespace

std::string_view StrategyMethodName(StrategyMethod method) {
  switch (method) {
    case StrategyMethod::kNone:
      return "none";
    case StrategyMethod::kGptq:
      return "gptq";
    case StrategyMethod::kR2q:
      return "r2q";
  }
  return "none";
}

Strategy ChooseStrategy(std::optional<Modality> modality, const DiffusionQuantConfig& config, bool have_activations) {
  const StrategyRow& row = RowFor(modality);
  Strategy strategy;
  strategy.method = MethodFor(config.strategy, row.method);
  strategy.grid = config.grid;
  strategy.fit = config.fit;
  strategy.has_activations = have_activations;
  strategy.error_feedback =
      config.rounding == "auto" ? strategy.method != StrategyMethod::kNone : config.rounding == "ldlq";
  const std::string& time_aware = config.strategy_time_aware;
  strategy.time_aware = Overrule(time_aware, row.time_aware, config.enable_time_aware);
  strategy.time_aware_activations = Overrule(time_aware, row.time_aware_activations, config.enable_time_aware);
  strategy.spatial = Overrule(config.strategy_spatial, row.spatial, config.enable_spatial);
  strategy.transforms = TransformsOf(config, strategy.spatial);
  strategy.spatial = strategy.transforms.balance || strategy.transforms.grid ||
                     strategy.transforms.shift != Use::kNever || strategy.transforms.rotation != Use::kNever;
  if (!have_activations) DropWhatNeedsActivations(strategy);
  return strategy;
}

Strategy StrategyOf(const std::optional<Modality>& modality, const ModelOptions& options, bool have_activations) {
  DiffusionQuantConfig config;
  config.strategy = options.strategy;
  config.rounding = options.rounding;
  config.grid = options.grid;
  config.fit = options.fit;
  config.enable_time_aware = options.activations.enable_time_aware;
  config.strategy_time_aware = options.activations.strategy_time_aware;
  config.enable_spatial = options.spatial.enabled;
  config.strategy_spatial = options.spatial.strategy;
  config.equalization = options.spatial.equalization;
  config.smoothing = options.spatial.smoothing;
  config.hadamard = options.spatial.hadamard;
  return ChooseStrategy(modality, config, have_activations);
}

std::string StrategyName(const Strategy& strategy) {
  std::string name = strategy.error_feedback ? "GPTQ" : "Nearest";
  if (strategy.method == StrategyMethod::kR2q) name = strategy.error_feedback ? "R2Q" : "R2Q (nearest)";
  if (strategy.time_aware) name += " + TimeAware";
  if (strategy.spatial) name += " + Spatial";
  return name;
}

std::vector<GridKind> AllowedGrids(const Strategy& strategy, int bits) {
  if (bits != 2 || strategy.grid == "affine") return {GridKind::kAffine};
  if (strategy.grid == "residual_binary") return {GridKind::kResidualBinary};
  if (strategy.method == StrategyMethod::kR2q) return {GridKind::kResidualBinary, GridKind::kAffine};
  return {GridKind::kAffine};
}

bool UsesFittedGrid(const Strategy& strategy) {
  if (strategy.fit != "auto") return strategy.fit == "fitted";
  return strategy.has_activations;
}

}  // namespace arrow_quant
