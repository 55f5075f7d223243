#pragma once

#include <cstdint>
#include <stop_token>
#include <vector>

#include "arrow_quant/base/matrix_view.h"

namespace arrow_quant {

struct LeftToRightOptions {
  int bits = 4;                   // 2, 3, 4 or 8
  std::int64_t group_size = 128;  // -1 for one group per row
  double dampening = 0.01;        // of the mean diagonal
  int num_threads = 0;            // 0: all
};

// GPTQ as its authors define it (Frantar et al. 2023, "GPTQ: accurate post-training quantization for generative
// pre-trained transformers"), without its three factorizations: LDLQ from left to right in double, the grid of each
// group the min-max grid with an integer zero point of the weights after compensation. For comparison, and a yardstick
// in tests; RoundWithHessian is better. A column whose diagonal is not positive gets diagonal 1. Returns the values
// [rows, cols]. Throws Error kQuantization when the dampened hessian [cols, cols] is not positive definite.
std::vector<double> RoundLeftToRight(MatrixView<const double> weight, const double* hessian,
                                     const LeftToRightOptions& options, const std::stop_token& stop = {});

}  // namespace arrow_quant
