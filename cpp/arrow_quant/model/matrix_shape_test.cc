#include "arrow_quant/model/matrix_shape.h"

#include <gtest/gtest.h>

#include <vector>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

using Shape = std::vector<std::int64_t>;

MatrixShape Plain(std::int64_t rows, std::int64_t cols) {
  return {.quant_axis = 0, .row_rank = 1, .rows = rows, .cols = cols};
}

TEST(MatrixShape, AnyRankIsFlattenedFromAxisOne) {
  EXPECT_EQ(MatrixViewOf(Shape{}), Plain(1, 1));
  EXPECT_EQ(MatrixViewOf(Shape{7}), Plain(1, 7));
  EXPECT_EQ(MatrixViewOf(Shape{8, 4304}), Plain(8, 4304));
  EXPECT_EQ(MatrixViewOf(Shape{1, 48}), Plain(1, 48));
  EXPECT_EQ(MatrixViewOf(Shape{1, 64, 48}), Plain(1, 3072));
  EXPECT_EQ(MatrixViewOf(Shape{320, 4, 3, 3}), Plain(320, 36));
  EXPECT_EQ(MatrixViewOf(Shape{16, 8, 3, 3, 3}), Plain(16, 216));
  EXPECT_EQ(MatrixViewOf(Shape{768, 192, 3}), Plain(768, 576));
  EXPECT_EQ(MatrixViewOf(Shape{192, 1, 3}), Plain(192, 3));
  EXPECT_EQ(MatrixViewOf(Shape{2, 0}), Plain(2, 0));
}

TEST(MatrixShape, ATransposedConvolutionHasItsOutputsOnAxisOne) {
  const MatrixShape view = MatrixViewOf(Shape{40, 20, 4, 4}, true);
  EXPECT_EQ(view, (MatrixShape{.quant_axis = 1, .row_rank = 1, .rows = 20, .cols = 640}));
}

TEST(MatrixShape, StackedExpertsHaveRowsOfTheirOwn) {
  const MatrixShape view = MatrixViewOf(Shape{4, 96, 64}, false, true);
  EXPECT_EQ(view, (MatrixShape{.quant_axis = 0, .row_rank = 2, .rows = 384, .cols = 64}));
}

TEST(MatrixShape, TheRankMustFit) {
  EXPECT_THROW(MatrixViewOf(Shape{4}, true), Error);
  EXPECT_THROW(MatrixViewOf(Shape{4, 4}, false, true), Error);
  EXPECT_THROW(MatrixViewOf(Shape{4, 4, 4}, true, true), Error);
}

}  // namespace
}  // namespace arrow_quant
