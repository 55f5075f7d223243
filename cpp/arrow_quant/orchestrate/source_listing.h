#pragma once

#include <filesystem>
#include <string>

namespace arrow_quant {

// Every tensor of the checkpoints that QuantizeModel would read from `path`, as a JSON list of {component, name, dtype
// (torch's name), shape, file, offset, num_bytes, merged, and for 8-bit float weights scale}. `merged` tells that the
// tensor is a scale that is applied to its weight and is not in the output. `scale` is {dtype, shape, file, offset,
// num_bytes, row_block, column_block}, see ScaleShape. Throws Error.
std::string ListSourceTensors(const std::filesystem::path& path);

}  // namespace arrow_quant
