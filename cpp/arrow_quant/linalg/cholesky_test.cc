#include "arrow_quant/linalg/cholesky.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "arrow_quant/linalg/blas.h"

namespace arrow_quant {
namespace {

// A second moment of n channels from twice as many rows, plus 0.1 on the diagonal.
template <typename T>
std::vector<T> PositiveDefinite(std::int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<T> x(static_cast<std::size_t>(2 * n * n));
  for (T& v : x) v = static_cast<T>(normal(engine));
  std::vector<T> h(static_cast<std::size_t>(n * n), T{0});
  for (std::int64_t i = 0; i < n; ++i) h[static_cast<std::size_t>(i * n + i)] = static_cast<T>(0.1);
  const MatrixView<const T> rows(x.data(), 2 * n, n);
  Gemm<T>(Transpose::kYes, Transpose::kNo, T{1} / static_cast<T>(2 * n), rows, rows, T{1},
          MatrixView<T>(h.data(), n, n));
  return h;
}

template <typename T>
std::vector<T> Reversed(const std::vector<T>& h) {
  return {h.rbegin(), h.rend()};
}

template <typename T>
class CholeskyTest : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(CholeskyTest, Types);

TYPED_TEST(CholeskyTest, FactorsGiveTheMatrixBack) {
  using T = TypeParam;
  for (const std::int64_t n : {1, 2, 17, 64, 255, 256, 257, 600}) {
    const std::vector<T> h = PositiveDefinite<T>(n, 3);
    std::vector<T> reversed = Reversed(h);
    std::vector<T> at(h.size());
    std::vector<T> d(static_cast<std::size_t>(n));
    ASSERT_TRUE(FactorUnitUpper(MatrixView<T>(reversed.data(), n, n), MatrixView<T>(at.data(), n, n), std::span(d), 2));
    std::vector<T> scaled(at);  // diag(d) A^T
    for (std::int64_t i = 0; i < n; ++i) {
      EXPECT_EQ(at[static_cast<std::size_t>(i * n + i)], T{1});
      for (std::int64_t j = 0; j < n; ++j) {
        EXPECT_TRUE(j <= i || at[static_cast<std::size_t>(i * n + j)] == T{0});
        scaled[static_cast<std::size_t>(i * n + j)] *= d[static_cast<std::size_t>(i)];
      }
    }
    std::vector<T> product(h.size());
    Gemm<T>(Transpose::kYes, Transpose::kNo, T{1}, {at.data(), n, n}, {scaled.data(), n, n}, T{0},
            {product.data(), n, n});
    // Backward error of a Cholesky factorization: a few sqrt(n) units in the last place of the diagonal, which is
    // near 1.
    const double tolerance =
        8 * std::sqrt(static_cast<double>(n)) * static_cast<double>(std::numeric_limits<T>::epsilon());
    for (std::size_t i = 0; i < h.size(); ++i) {
      ASSERT_NEAR(static_cast<double>(product[i]), static_cast<double>(h[i]), 3 * tolerance) << n << " " << i;
    }
  }
}

TYPED_TEST(CholeskyTest, ThreadsDoNotChangeBits) {
  using T = TypeParam;
  const std::int64_t n = 700;
  const std::vector<T> h = PositiveDefinite<T>(n, 5);
  std::vector<T> one = h;
  std::vector<T> two = h;
  ASSERT_TRUE(Cholesky(MatrixView<T>(one.data(), n, n), 1));
  ASSERT_TRUE(Cholesky(MatrixView<T>(two.data(), n, n), 2));
  EXPECT_EQ(one, two);
}

TYPED_TEST(CholeskyTest, RefusesWhatIsNotPositiveDefinite) {
  using T = TypeParam;
  for (const std::int64_t n : {3, 300}) {
    std::vector<T> h = PositiveDefinite<T>(n, 7);
    h[static_cast<std::size_t>((n - 1) * n + n - 1)] = T{-1};
    EXPECT_FALSE(Cholesky(MatrixView<T>(h.data(), n, n), 1));
    h[0] = std::numeric_limits<T>::quiet_NaN();
    EXPECT_FALSE(Cholesky(MatrixView<T>(h.data(), n, n), 1));
  }
}

}  // namespace
}  // namespace arrow_quant
