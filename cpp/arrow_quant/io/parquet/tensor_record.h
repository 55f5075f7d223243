#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace arrow_quant {

// A cell holds at most this many bytes: Parquet counts a page in 31 bits.
inline constexpr std::uint64_t kMaxCellBytes = std::uint64_t{1} << 30;
// Parts of this size are written fastest and with little memory: the encoder holds about four copies of a cell.
inline constexpr std::uint64_t kPreferredCellBytes = std::uint64_t{16} << 20;
// Every part of a tensor begins at a multiple of this many rows, so that its packed codes begin with a whole byte.
inline constexpr std::uint64_t kPartRowMultiple = 8;

// One row of Parquet V2 Extended: a whole tensor, or one part of a tensor too large for one cell.
// Byte and float ranges are views; the writer copies nothing before it encodes, the reader keeps what they point to
// alive.
//
// Columns 1-15 keep the names and types of the older V2 Extended; the others follow them.
struct TensorRecord {
  // -- columns of the older layout
  std::string layer_name;
  std::vector<std::uint64_t> shape;         // of the whole tensor
  std::string dtype;                        // the source's element type in torch's words: "float32"
  std::span<const std::uint8_t> data;       // packed codes, or raw little-endian values when quant_type is "none"
  std::uint64_t num_params = 0;             // of the whole tensor
  std::string quant_type = "none";          // "none", "int2", "int3", "int4", "int8"
  std::span<const float> scales;            // [row_count, groups]
  std::span<const float> zero_points;       // [row_count, groups]
  std::optional<std::uint64_t> quant_axis;  // axis of the output channels
  std::optional<std::uint64_t> group_size;  // columns of the matrix view in one group
  bool is_diffusion_model = true;
  std::optional<std::string> modality;
  std::optional<std::string> time_aware_quant_json;
  std::optional<std::string> spatial_quant_json;
  std::optional<std::string> activation_stats_json;

  // -- columns of ours
  std::int32_t bits = 0;                   // 0 when not quantized
  std::string packing = "none";            // "lsb" (little-endian bit stream), "none"
  std::string grid = "none";               // "affine", "residual_binary", "none"
  std::string zero_point_kind = "none";    // "float" or "none"
  std::int32_t row_rank = 1;               // leading axes (after quant_axis is moved to the front) that form rows
  std::uint64_t row_begin = 0;             // first matrix row of this part
  std::uint64_t row_count = 0;             // matrix rows in this part; 0 with row_begin 0 when written: all of them
  std::span<const float> residual_scales;  // [row_count, groups] of a residual binary grid
  std::string method;                      // "min_max", "fitted", "ldlq", ...; "kept" when not quantized
  std::string reason;                      // why it was kept or fell back; empty otherwise
  std::string component;                   // pipeline component, "" for the model itself
  std::string report_json = "{}";          // quality figures of the tensor

  // Time-aware tables of the whole tensor, in its first part only; empty when absent. Ranges of the layer's input, in
  // the order (time group, input of a grouped convolution, block of input channels): x ~ scale * (code - zero_point)
  // in 8 bits.
  std::vector<double> time_boundaries;          // ascending, one more than groups; group 0 is the least noisy
  std::vector<std::uint64_t> time_block_sizes;  // input channels in a block, per group
  std::span<const float> time_scales;
  std::span<const float> time_zero_points;
  // What the outputs of the quantized weight are corrected by, in the order (time group, output channel), with time
  // groups of their own: y = gamma * (Q x) + beta.
  std::vector<double> correction_boundaries;  // ascending, one more than groups
  std::span<const float> time_gamma;          // empty: ones
  std::span<const float> time_beta;
  std::span<const float> time_gains;  // reserved for gains of input channels
  // What the layer does to its input before it becomes codes, by column of the matrix; empty: nothing. The values of
  // the codes are those of the weight in a rotated basis where there is a seed.
  std::span<const float> equalization_scales;
  std::span<const float> shift;
  std::optional<std::uint64_t> rotation_seed;
  std::optional<std::string> equalization_producer;  // module that yields the input and can take the scales
};

}  // namespace arrow_quant
