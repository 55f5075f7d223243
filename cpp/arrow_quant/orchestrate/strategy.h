#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/model/modality.h"
#include "arrow_quant/orchestrate/config.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/quantize/quantized_matrix.h"

namespace arrow_quant {

// How weights are rounded.
enum class StrategyMethod {
  kNone,  // nearest values of an affine grid
  kGptq,  // error feedback on affine grids
  kR2q,   // error feedback, residual binary grids at 2 bits
};

// "none", "gptq", "r2q".
std::string_view StrategyMethodName(StrategyMethod method);

// What suits a modality when the configuration says nothing.
struct StrategyRow {
  Modality modality;
  StrategyMethod method;
  bool time_aware;              // gains and biases per time group
  bool time_aware_activations;  // activation scales per time group, used when activations are quantized
  bool spatial;                 // equalization, smoothing, rotation
};

inline constexpr std::array<StrategyRow, 4> kStrategyTable = {{
    {Modality::kText, StrategyMethod::kR2q, true, true, false},
    {Modality::kCode, StrategyMethod::kR2q, true, true, false},
    {Modality::kImage, StrategyMethod::kGptq, false, true, true},
    {Modality::kAudio, StrategyMethod::kGptq, false, true, true},
}};

// Whether a transform is used: never, where held-out rows gain by it, or in any case.
enum class Use { kNever, kAuto, kAlways };

// Transforms of the inputs of layers.
struct SpatialChoice {
  bool columns = false;       // equalization by the weight alone
  bool balance = false;       // by both sides
  bool grid = false;          // likewise
  bool demanded = false;      // some of it was asked for by name, so that a layer without is a failure
  bool demanded_way = false;  // an equalization or a rotation was
  Use shift = Use::kNever;
  Use rotation = Use::kNever;
};

// What a run really does.
struct Strategy {
  StrategyMethod method = StrategyMethod::kNone;
  std::string grid = "auto";  // as in the configuration
  std::string fit = "auto";
  bool has_activations = false;
  bool error_feedback = false;  // LDLQ; nearest rounding otherwise
  bool time_aware = false;
  bool time_aware_activations = false;
  bool spatial = false;
  SpatialChoice transforms;
  std::vector<std::string> notes;  // full sentences: what the strategy wanted and could not have
};

// The table's row for `modality`, overruled by the configuration's strategy, rounding, strategy_time_aware,
// strategy_spatial, enable_time_aware and enable_spatial. No modality is a model without diffusion logic: rounding
// only, unless the configuration asks for more. Without activations rounding is nearest and neither time-aware nor
// spatial parameters are made; notes say what was wanted. `config` must be valid.
Strategy ChooseStrategy(std::optional<Modality> modality, const DiffusionQuantConfig& config, bool have_activations);

// The same by what `options` have of a configuration.
Strategy StrategyOf(const std::optional<Modality>& modality, const ModelOptions& options, bool have_activations);

// "R2Q + TimeAware", "GPTQ + Spatial", "GPTQ", "Nearest".
std::string StrategyName(const Strategy& strategy);

// The grids that may be used at `bits`, the preferred one first; where there are two, the smaller error decides.
std::vector<GridKind> AllowedGrids(const Strategy& strategy, int bits);

// Whether a group's grid is fitted by least squares; otherwise it spans the range of the weights. Fitting wins
// everywhere when activations weight it. Without them it lowers the mean error but clips the large weights, and
// pictures and texts get worse at every width.
bool UsesFittedGrid(const Strategy& strategy);

}  // namespace arrow_quant
