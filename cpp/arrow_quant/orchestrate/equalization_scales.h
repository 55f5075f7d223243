#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/quantize/time_aware/activation_table.h"

namespace arrow_quant {

// Scales that can be tried on the layers which read an input, [cols] each; empty: all are 1, so there is nothing to
// try.
struct EqualizationScales {
  std::vector<float> balance;
  std::vector<float> grid;
  double alpha = 0;  // of grid
};

// Where the rounding of a layer finds its scales.
class EqualizationSource {
 public:
  virtual ~EqualizationSource() = default;
  // Empty where there are none to try. Thread-safe.
  virtual EqualizationScales Of(const LayerKey& layer) = 0;
};

// A weight [rows, cols] that reads the input.
struct ReadingWeight {
  AlignedVector<float> values;
  std::int64_t group_size = 128;
  int bits = 4;
};
using LoadWeight = std::function<ReadingWeight()>;

// Scales for an input that all of `weights` read, the same for each of them, so that what yields the input can take
// them. Weights are loaded one at a time. alpha of the grid is the one with the least expected noise over all weights
// (ExpectedNoise); its ranges are those of `activations`, per time group where `time_aware`.
EqualizationScales MakeEqualizationScales(std::span<const LoadWeight> weights, const InputStatistics& input,
                                          const InputLayout& layout, const ActivationOptions& activations,
                                          bool time_aware);

}  // namespace arrow_quant
