#pragma once

#include <span>
#include <stop_token>

#include "arrow_quant/base/matrix_view.h"

namespace arrow_quant {

// Overwrites the lower triangle of the symmetric a [n, n], of which only that triangle is read, with L of a = L L^T.
// Blocked by fixed panels: the bits do not depend on num_threads (0: all). Returns false when a is not positive
// definite; a is then half overwritten. For float and double.
template <typename T>
bool Cholesky(MatrixView<T> a, int num_threads, const std::stop_token& stop = {});

// h = A diag(d) A^T with A unit upper triangular, the factorization of LDLQ (Chee et al. 2023, "QuIP", equation 4),
// from the Cholesky factor of h with rows and columns reversed. On entry `reversed` [n, n] holds the lower triangle of
// reversed h: reversed(i, j) = h(n - 1 - i, n - 1 - j). On return `transposed` [n, n] holds A^T, unit lower triangular
// with zeros above, and d [n] the pivots; `reversed` is overwritten. False when h is not positive definite.
template <typename T>
bool FactorUnitUpper(MatrixView<T> reversed, MatrixView<T> transposed, std::span<T> d, int num_threads,
                     const std::stop_token& stop = {});

}  // namespace arrow_quant
