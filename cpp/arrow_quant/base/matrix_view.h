#pragma once

#include <cstdint>
#include <type_traits>

namespace arrow_quant {

// A row-major matrix that it does not own. `stride` counts elements from one row to the next.
template <typename T>
struct MatrixView {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  MatrixView() = default;
  MatrixView(T* data_in, std::int64_t rows_in, std::int64_t cols_in)
      : data(data_in), rows(rows_in), cols(cols_in), stride(cols_in) {}
  MatrixView(T* data_in, std::int64_t rows_in, std::int64_t cols_in, std::int64_t stride_in)
      : data(data_in), rows(rows_in), cols(cols_in), stride(stride_in) {}

  // NOLINTNEXTLINE(google-explicit-constructor): a view of const elements is as good, like a pointer to const.
  operator MatrixView<const T>() const
    requires(!std::is_const_v<T>)
  {
    return {data, rows, cols, stride};
  }

  T* Row(std::int64_t r) const { return data + r * stride; }
  T& operator()(std::int64_t r, std::int64_t c) const { return data[r * stride + c]; }
  std::int64_t size() const { return rows * cols; }

  // Rows [begin, begin + count).
  MatrixView Rows(std::int64_t begin, std::int64_t count) const { return {Row(begin), count, cols, stride}; }
  // Columns [begin, begin + count).
  MatrixView Cols(std::int64_t begin, std::int64_t count) const { return {data + begin, rows, count, stride}; }
};

}  // namespace arrow_quant
