#pragma once

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/matrix_view.h"

namespace arrow_quant {

// The weight whose outputs on the inputs x of a partly quantized model are nearest to those of `weight` [rows, cols] on
// the float model's inputs x_f, in the mean square:
//     W* = W + W D (H + lambda I)^-1,    H = E[x x^T],    D = E[(x_f - x) x^T],
// lambda being `dampening` of the mean diagonal of H. Rounded in place of W it makes up for errors of earlier layers
// (Li et al. 2025, "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration"; the closed form of its
// residual term). `hessian` and `drift` are float32 [cols, cols]. Empty where H + lambda I is not positive definite or
// the result is not finite. The bits do not depend on num_threads (0: all).
AlignedVector<float> CorrectTarget(MatrixView<const float> weight, const float* hessian, const float* drift,
                                   double dampening, int num_threads);

}  // namespace arrow_quant
