#pragma once

#include <cstdint>
#include <vector>

namespace arrow_quant {

// Widths of the activation codes that a table's ranges are stored for; other widths derive from them.
inline constexpr int kActivationBits = 8;
inline constexpr int kActivationLevels = (1 << kActivationBits) - 1;

// How the columns of a weight matrix read the input of its layer: every column belongs to one input channel, `taps`
// consecutive ones (the kernel of a convolution, 1 for a linear layer) to the same.
struct InputLayout {
  std::int64_t inputs = 1;    // groups of a grouped convolution, one after another in its output channels
  std::int64_t channels = 1;  // of each
  std::int64_t taps = 1;

  std::int64_t Columns() const { return channels * taps; }
  std::int64_t Blocks(std::int64_t block_size) const { return (channels + block_size - 1) / block_size; }
};

// Static ranges of a layer's input for asymmetric integer codes: x ~ scale * (code - round(zero_point)), code in
// 0..255, one scale and zero point per time group and block of input channels. The range is
// [-zero_point * scale, (255 - zero_point) * scale] and holds 0, so that padding is exact; with b bits the scale is
// scale * 255 / (2^b - 1) and the zero point round(zero_point * (2^b - 1) / 255).
struct ActivationTable {
  InputLayout layout;
  std::vector<double> boundaries;         // ascending, one more than groups; group 0 is the least noisy
  std::vector<std::int64_t> block_sizes;  // input channels in a block, per group
  std::vector<float> scales;              // per group, per input, per block; positive
  std::vector<float> zero_points;         // likewise, in [0, 255]
  std::vector<float> shift = {};          // [columns] that the input is shifted by before anything else; empty: zeros

  bool empty() const { return scales.empty(); }
  std::int64_t groups() const { return static_cast<std::int64_t>(block_sizes.size()); }
};

}  // namespace arrow_quant
