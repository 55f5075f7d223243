#include "arrow_quant/orchestrate/layer_activations.h"

#include "arrow_quant/numeric/significant_bits.h"
#include "arrow_quant/quantize/affine_grid.h"
#include "arrow_quant/quantize/base_quantizer.h"

namespace arrow_quant {
namespace {

// A shift is taken where it lowers the error to this part: it costs a subtraction and a row of means.
constexpr double kShiftGain = 0.95;

// Means of the columns over all rows seen, in stored precision.
std::vector<float> MeansOf(const InputStatistics& input) {
  std::vector<Moments> columns(static_cast<std::size_t>(input.channels()));
  for (int g = 0; g < input.options().groups; ++g) {
    if (input.count(g) == 0) continue;
    for (std::size_t c = 0; c < columns.size(); ++c) columns[c].Merge(input.channel_moments(g)[c]);
  }
  std::vector<float> means;
  means.reserve(columns.size());
  for (const Moments& column : columns) {
    means.push_back(RoundToSignificantBits(static_cast<float>(column.mean), kScaleSignificantBits));
  }
  return means;
}

}  // namespace

LayerActivations::LayerActivations(const LayerInputs& inputs, const InputLayout& layout, const TimeGroups& seen_groups,
                                   const ActivationOptions& options, const Strategy& strategy)
    : inputs_(inputs), layout_(layout), seen_groups_(seen_groups), options_(options), strategy_(strategy) {}

ActivationOutcome LayerActivations::Make(const QuantizedMatrix& matrix, const std::vector<float>& shift,
                                         const ActivationOptions& options) const {
  AlignedVector<float> values(static_cast<std::size_t>(matrix.rows * matrix.cols));
  DequantizeTransformedRows(matrix, 0, matrix.rows, values.data());
  return MakeActivationTable({values.data(), matrix.rows, matrix.cols}, inputs_,
                             {matrix.column_scales, shift, matrix.rotation_seed}, seen_groups_, layout_, options,
                             strategy_.time_aware_activations);
}

double LayerActivations::Error(const QuantizedMatrix& matrix) const {
  ActivationOptions options = options_;
  options.range = "min_max";
  options.transitions = {};
  const int bits = options.bits == 0 ? kActivationBits : options.bits;
  const double step = static_cast<double>(kActivationLevels) / ((1 << bits) - 1);  // beside that of 8 bits
  return step * step * Make(matrix, {}, options).group_error;
}

ActivationOutcome LayerActivations::Table(const QuantizedMatrix& matrix) const {
  const Use use = inputs_.size() == 1 ? strategy_.transforms.shift : Use::kNever;
  ActivationOutcome plain = Make(matrix, {}, options_);
  if (use == Use::kNever) return plain;
  ActivationOutcome shifted = Make(matrix, MeansOf(*inputs_.front()), options_);
  if (use == Use::kAuto && !(shifted.group_error < kShiftGain * plain.group_error)) return plain;
  return shifted;
}

}  // namespace arrow_quant
