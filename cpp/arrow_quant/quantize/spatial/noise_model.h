#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "arrow_quant/base/matrix_view.h"

namespace arrow_quant {

// Ranges of an input in one time group, by channel.
struct InputExtremes {
  std::vector<float> min;
  std::vector<float> max;
  double weight = 1;              // of the group; all weights add up to 1
  std::int64_t block_size = 256;  // channels with one scale
};

// What layers make of an input, as far as rounding noise goes.
struct LayerNoise {
  MatrixView<const float> weight;  // [outputs, channels * taps]
  std::int64_t taps = 1;
  std::span<const float> input_energy;  // E[x^2] by column
  std::int64_t group_size = 128;        // columns with one grid
  int weight_bits = 4;
  int activation_bits = 8;
};

// Expected squared error of the outputs, per row of the input, where the weight is W / e and the input e * x: both are
// rounded to evenly spaced steps, whose errors have the variance step^2 / 12 (Widrow and Kollar 2008) and count by the
// energy of what they are multiplied by,
//   sum over blocks b of step_b^2 / 12 sum over c in b of |W_c|^2 / e_c^2  +
//   sum over groups g of step_g^2 / 12 sum over c in g of e_c^2 E[x_c^2].
// Only to choose among scales before any is tried. `scales` is by channel; at most 256 rows of the weight are looked
// at, evenly spaced, and stand for all.
double ExpectedNoise(const LayerNoise& layer, std::span<const InputExtremes> inputs, std::span<const float> scales);

}  // namespace arrow_quant
