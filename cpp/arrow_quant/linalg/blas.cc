#include "arrow_quant/linalg/blas.h"

#include <cblas.h>

#include <cmath>

// Of LAPACK; its own header declares every routine and needs complex types.
extern "C" {
// NOLINTBEGIN(readability-identifier-naming): Fortran names.
void scipy_spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info, std::size_t uplo_length);
void scipy_dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info, std::size_t uplo_length);
// NOLINTEND(readability-identifier-naming)
}

namespace arrow_quant {
namespace {

// Before the first call, so that OpenBLAS makes no threads of its own.
void UseOneThread() {
  static const bool once = [] {
    scipy_openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(once);
}

CBLAS_TRANSPOSE ToCblas(Transpose transpose) { return transpose == Transpose::kYes ? CblasTrans : CblasNoTrans; }

int Int(std::int64_t n) { return static_cast<int>(n); }

template <typename T>
constexpr bool kIsFloat = sizeof(T) == sizeof(float);

template <typename T>
void Syrk(CBLAS_UPLO uplo, CBLAS_TRANSPOSE transpose, T alpha, MatrixView<const T> a, T beta, MatrixView<T> c) {
  const std::int64_t k = transpose == CblasTrans ? a.rows : a.cols;
  if (c.rows == 0) return;
  UseOneThread();
  if constexpr (kIsFloat<T>) {
    scipy_cblas_ssyrk(CblasRowMajor, uplo, transpose, Int(c.rows), Int(k), alpha, a.data, Int(a.stride), beta, c.data,
                      Int(c.stride));
  } else {
    scipy_cblas_dsyrk(CblasRowMajor, uplo, transpose, Int(c.rows), Int(k), alpha, a.data, Int(a.stride), beta, c.data,
                      Int(c.stride));
  }
}

}  // namespace

template <typename T>
void Gemm(Transpose transpose_a, Transpose transpose_b, T alpha, MatrixView<const T> a, MatrixView<const T> b, T beta,
          MatrixView<T> c) {
  const std::int64_t k = transpose_a == Transpose::kYes ? a.rows : a.cols;
  if (c.rows == 0 || c.cols == 0) return;
  UseOneThread();
  if constexpr (kIsFloat<T>) {
    scipy_cblas_sgemm(CblasRowMajor, ToCblas(transpose_a), ToCblas(transpose_b), Int(c.rows), Int(c.cols), Int(k),
                      alpha, a.data, Int(a.stride), b.data, Int(b.stride), beta, c.data, Int(c.stride));
  } else {
    scipy_cblas_dgemm(CblasRowMajor, ToCblas(transpose_a), ToCblas(transpose_b), Int(c.rows), Int(c.cols), Int(k),
                      alpha, a.data, Int(a.stride), b.data, Int(b.stride), beta, c.data, Int(c.stride));
  }
}

template <typename T>
void SyrkUpper(T alpha, MatrixView<const T> a, T beta, MatrixView<T> c) {
  Syrk(CblasUpper, CblasTrans, alpha, a, beta, c);
}

template <typename T>
void SyrkLower(T alpha, MatrixView<const T> a, T beta, MatrixView<T> c) {
  Syrk(CblasLower, CblasNoTrans, alpha, a, beta, c);
}

template <typename T>
void TrsmLower(Side side, Transpose transpose, Diagonal diagonal, MatrixView<const T> lower, MatrixView<T> b) {
  if (b.rows == 0 || b.cols == 0) return;
  UseOneThread();
  const CBLAS_SIDE where = side == Side::kLeft ? CblasLeft : CblasRight;
  const CBLAS_DIAG unit = diagonal == Diagonal::kUnit ? CblasUnit : CblasNonUnit;
  if constexpr (kIsFloat<T>) {
    scipy_cblas_strsm(CblasRowMajor, where, CblasLower, ToCblas(transpose), unit, Int(b.rows), Int(b.cols), T{1},
                      lower.data, Int(lower.stride), b.data, Int(b.stride));
  } else {
    scipy_cblas_dtrsm(CblasRowMajor, where, CblasLower, ToCblas(transpose), unit, Int(b.rows), Int(b.cols), T{1},
                      lower.data, Int(lower.stride), b.data, Int(b.stride));
  }
}

template <typename T>
bool PotrfLower(MatrixView<T> a) {
  if (a.rows == 0) return true;
  UseOneThread();
  const int n = Int(a.rows);
  const int stride = Int(a.stride);
  int info = 0;
  // LAPACK counts by columns: its upper triangle is the lower one of a row-major matrix.
  if constexpr (kIsFloat<T>) {
    scipy_spotrf_("U", &n, a.data, &stride, &info, 1);
  } else {
    scipy_dpotrf_("U", &n, a.data, &stride, &info, 1);
  }
  return info == 0 && std::isfinite(a(a.rows - 1, a.rows - 1));
}

template void Gemm(Transpose, Transpose, float, MatrixView<const float>, MatrixView<const float>, float,
                   MatrixView<float>);
template void Gemm(Transpose, Transpose, double, MatrixView<const double>, MatrixView<const double>, double,
                   MatrixView<double>);
template void SyrkUpper(float, MatrixView<const float>, float, MatrixView<float>);
template void SyrkUpper(double, MatrixView<const double>, double, MatrixView<double>);
template void SyrkLower(float, MatrixView<const float>, float, MatrixView<float>);
template void SyrkLower(double, MatrixView<const double>, double, MatrixView<double>);
template void TrsmLower(Side, Transpose, Diagonal, MatrixView<const float>, MatrixView<float>);
template void TrsmLower(Side, Transpose, Diagonal, MatrixView<const double>, MatrixView<double>);
template bool PotrfLower(MatrixView<float>);
template bool PotrfLower(MatrixView<double>);

}  // namespace arrow_quant
