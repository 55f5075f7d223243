#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arrow_quant/base/dtype.h"

namespace arrow_quant {

// One tensor of a checkpoint, as its header describes it.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;  // empty for a scalar
  std::int64_t num_elements = 0;    // product of shape; 1 for a scalar
  std::int64_t num_bytes = 0;
  int file_index = 0;       // which file of the checkpoint
  std::int64_t offset = 0;  // of the first byte, from the start of that file
};

}  // namespace arrow_quant
