#include "arrow_quant/model/matrix_shape.h"

#include <cstddef>
#include <string>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

std::int64_t Product(std::span<const std::int64_t> shape) {
  std::int64_t product = 1;
  for (const std::int64_t size : shape) product *= size;
  return product;
}

void CheckRank(std::size_t rank, std::size_t needed, const char* what) {
  if (rank < needed) {
    throw Error(ErrorCode::kInvalidArgument, std::string(what) + " needs at least " + std::to_string(needed) +
                                                 " axes, but the tensor has " + std::to_string(rank));
  }
}

}  // namespace

MatrixShape MatrixViewOf(std::span<const std::int64_t> shape, bool transposed, bool expert) {
  if (transposed && expert) {
    throw Error(ErrorCode::kInvalidArgument,
                "a tensor is either a transposed convolution or stacked experts, not both");
  }
  if (transposed) {
    CheckRank(shape.size(), 2, "a transposed convolution");
    return {.quant_axis = 1, .row_rank = 1, .rows = shape[1], .cols = shape[0] * Product(shape.subspan(2))};
  }
  if (expert) {
    CheckRank(shape.size(), 3, "a stack of expert weights");
    return {.quant_axis = 0, .row_rank = 2, .rows = shape[0] * shape[1], .cols = Product(shape.subspan(2))};
  }
  if (shape.size() < 2) return {.quant_axis = 0, .row_rank = 1, .rows = 1, .cols = Product(shape)};
  return {.quant_axis = 0, .row_rank = 1, .rows = shape[0], .cols = Product(shape.subspan(1))};
}

}  // namespace arrow_quant
