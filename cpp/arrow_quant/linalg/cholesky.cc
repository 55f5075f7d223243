#include "arrow_quant/linalg/cholesky.h"

#include <algorithm>
#include <cstdint>

#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/linalg/blas.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kPanel = 256;
constexpr std::int64_t kRowsPerTask = 64;

template <typename T>
MatrixView<T> Block(MatrixView<T> a, std::int64_t row, std::int64_t rows, std::int64_t col, std::int64_t cols) {
  return a.Rows(row, rows).Cols(col, cols);
}

std::int64_t Tasks(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// Rows below the factored diagonal block [begin, begin + count): a := a L^-T.
template <typename T>
void SolveBelow(MatrixView<T> a, std::int64_t begin, std::int64_t count, int threads, const std::stop_token& stop) {
  const std::int64_t first = begin + count;
  const MatrixView<const T> diagonal = Block(a, begin, count, begin, count);
  ThreadPool::Shared().ParallelFor(
      Tasks(a.rows - first, kRowsPerTask), threads,
      [&](std::int64_t task) {
        const std::int64_t row = first + task * kRowsPerTask;
        TrsmLower(Side::kRight, Transpose::kYes, Diagonal::kGiven, diagonal,
                  Block(a, row, std::min(kRowsPerTask, a.rows - row), begin, count));
      },
      stop);
}

// What is right of and below that panel: a -= P P^T, block of rows by block of rows.
template <typename T>
void UpdateTrailing(MatrixView<T> a, std::int64_t begin, std::int64_t count, int threads, const std::stop_token& stop) {
  const std::int64_t first = begin + count;
  const std::int64_t tasks = Tasks(a.rows - first, kPanel);
  ThreadPool::Shared().ParallelFor(
      tasks, threads,
      [&](std::int64_t task) {
        const std::int64_t row = first + (tasks - 1 - task) * kPanel;  // the longest first
        const std::int64_t rows = std::min(kPanel, a.rows - row);
        const MatrixView<const T> panel = Block(a, row, rows, begin, count);
        const MatrixView<const T> left = Block(a, first, row - first, begin, count);
        Gemm<T>(Transpose::kNo, Transpose::kYes, T{-1}, panel, left, T{1}, Block(a, row, rows, first, row - first));
        SyrkLower<T>(T{-1}, panel, T{1}, Block(a, row, rows, row, rows));
      },
      stop);
}

}  // namespace

template <typename T>
bool Cholesky(MatrixView<T> a, int num_threads, const std::stop_token& stop) {
  for (std::int64_t begin = 0; begin < a.rows; begin += kPanel) {
    const std::int64_t count = std::min(kPanel, a.rows - begin);
    if (!PotrfLower(Block(a, begin, count, begin, count))) return false;
    SolveBelow(a, begin, count, num_threads, stop);
    UpdateTrailing(a, begin, count, num_threads, stop);
  }
  return true;
}

template <typename T>
bool FactorUnitUpper(MatrixView<T> reversed, MatrixView<T> transposed, std::span<T> d, int num_threads,
                     const std::stop_token& stop) {
  const std::int64_t n = reversed.rows;
  if (!Cholesky(reversed, num_threads, stop)) return false;
  // With L the factor of the reversed matrix, U = reversed L is upper triangular and h = U U^T; A = U diag(U)^-1.
  ThreadPool::Shared().ParallelFor(
      Tasks(n, kRowsPerTask), num_threads,
      [&](std::int64_t task) {
        const std::int64_t end = std::min(n, (task + 1) * kRowsPerTask);
        for (std::int64_t j = task * kRowsPerTask; j < end; ++j) {
          const T pivot = reversed(n - 1 - j, n - 1 - j);
          T* row = transposed.Row(j);
          for (std::int64_t i = 0; i < j; ++i) row[i] = reversed(n - 1 - i, n - 1 - j) / pivot;
          row[j] = 1;
          std::fill(row + j + 1, row + n, T{0});
          d[static_cast<std::size_t>(j)] = pivot * pivot;
        }
      },
      stop);
  return true;
}

template bool Cholesky(MatrixView<float>, int, const std::stop_token&);
template bool Cholesky(MatrixView<double>, int, const std::stop_token&);
template bool FactorUnitUpper(MatrixView<float>, MatrixView<float>, std::span<float>, int, const std::stop_token&);
template bool FactorUnitUpper(MatrixView<double>, MatrixView<double>, std::span<double>, int, const std::stop_token&);

}  // namespace arrow_quant
