#pragma once

#include <cstdint>

#include "arrow_quant/base/matrix_view.h"

namespace arrow_quant {

// The BLAS and LAPACK calls of the program, over row-major views, for float and double. OpenBLAS runs on the calling
// thread; parallelism is the caller's, by panels that do not depend on the number of threads. OpenBLAS picks its code
// by CPU, so the last bits may differ between machines, never between runs or thread counts on one.

enum class Transpose { kNo, kYes };

// c = alpha * op(a) * op(b) + beta * c. op(a) is [m, k], op(b) [k, n], c [m, n]; shapes are those of c and op(a).
template <typename T>
void Gemm(Transpose transpose_a, Transpose transpose_b, T alpha, MatrixView<const T> a, MatrixView<const T> b, T beta,
          MatrixView<T> c);

// The upper triangle of c [n, n] = alpha * a^T * a + beta * c, a [k, n].
template <typename T>
void SyrkUpper(T alpha, MatrixView<const T> a, T beta, MatrixView<T> c);

// The lower triangle of c [n, n] = alpha * a * a^T + beta * c, a [n, k].
template <typename T>
void SyrkLower(T alpha, MatrixView<const T> a, T beta, MatrixView<T> c);

enum class Side { kLeft, kRight };
enum class Diagonal { kGiven, kUnit };

// Overwrites b with the solution X of op(lower) * X = b (kLeft) or X * op(lower) = b (kRight). Reads the lower triangle
// of `lower` only; kUnit takes its diagonal for ones.
template <typename T>
void TrsmLower(Side side, Transpose transpose, Diagonal diagonal, MatrixView<const T> lower, MatrixView<T> b);

// Overwrites the lower triangle of a [n, n] with its Cholesky factor. Returns false when a is not positive definite.
template <typename T>
bool PotrfLower(MatrixView<T> a);

}  // namespace arrow_quant
