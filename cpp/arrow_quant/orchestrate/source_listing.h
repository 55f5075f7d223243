#pragma once

#include <filesystem>
#include <string>

namespace arrow_quant {

// Every tensor of the checkpoints that QuantizeModel would read from `path`, as a JSON list of {component, name, dtype
// (torch's name), shape, file, offset, num_bytes}. Throws Error.
std::string ListSourceTensors(const std::filesystem::path& path);

}  // namespace arrow_quant
