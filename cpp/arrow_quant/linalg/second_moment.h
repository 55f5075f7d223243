#pragma once

#include <cstdint>

#include "arrow_quant/base/dtype.h"

namespace arrow_quant {

// Rows of activations [rows, cols], row-major and contiguous, of DType kF32 or kBF16; bfloat16 is widened block by
// block.
struct ActivationRows {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

// The upper triangle of h [cols, cols], float32 row-major, += x^T x. Threads share the panels of columns, so the bits
// do not depend on num_threads (0: all). Throws Error kInvalidArgument for another dtype.
void AccumulateSecondMoment(const ActivationRows& x, float* h, int num_threads);

// c [a.cols, b.cols], float32 row-major, += a^T b. Throws Error kShapeMismatch unless a and b have as many rows.
void AccumulateCrossMoment(const ActivationRows& a, const ActivationRows& b, float* c, int num_threads);

// Copies the upper triangle of h [n, n] to the lower.
void MirrorUpper(float* h, std::int64_t n);

}  // namespace arrow_quant
