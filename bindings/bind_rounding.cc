// Rounding with a second moment: conversions only.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/linalg/second_moment.h"
#include "arrow_quant/quantize/rounding/left_to_right.h"
#include "arrow_quant/quantize/rounding/measure_output.h"
#include "arrow_quant/quantize/rounding/rounding.h"
#include "bindings.h"
#include "numpy.h"

namespace nb = nanobind;
using namespace nb::literals;  // NOLINT(google-build-using-namespace): how nanobind names arguments

namespace arrow_quant {
namespace {

template <typename Array>
auto View(const Array& array) {
  return MatrixView<std::remove_pointer_t<decltype(array.data())>>(
      array.data(), static_cast<std::int64_t>(array.shape(0)), static_cast<std::int64_t>(array.shape(1)));
}

std::string Shape(std::size_t rows, std::size_t cols) {
  return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

// Throws unless `array` is [rows, cols].
template <typename Array>
void CheckShape(const char* name, const Array& array, std::size_t rows, std::size_t cols) {
  if (array.shape(0) == rows && array.shape(1) == cols) return;
  throw Error(ErrorCode::kShapeMismatch,
              std::string("the ") + name + " has the shape " + Shape(array.shape(0), array.shape(1)) +
                  ", but the weight needs " + Shape(rows, cols),
              {.remedy = "Give the one that belongs to this layer."});
}

GridKind ParseGrid(const std::string& name) {
  if (name == "affine") return GridKind::kAffine;
  if (name == "residual_binary") return GridKind::kResidualBinary;
  throw Error(ErrorCode::kInvalidArgument, "grid is '" + name + "'", {.remedy = "Use affine or residual_binary."});
}

ColumnOrder ParseOrder(const std::string& name) {
  if (name == "activation") return ColumnOrder::kActivation;
  if (name == "natural") return ColumnOrder::kNatural;
  throw Error(ErrorCode::kInvalidArgument, "order is '" + name + "'", {.remedy = "Use activation or natural."});
}

nb::dict ToDict(QuantizedMatrix q) {
  const auto rows = static_cast<std::size_t>(q.rows);
  const auto groups = static_cast<std::size_t>(q.groups());
  nb::dict out;
  out["group_size"] = q.group_size;
  const std::size_t bytes = q.codes.size();
  out["codes"] = ToNumpy<std::uint8_t>(std::move(q.codes), {bytes});
  out["scales"] = ToNumpy<float>(std::move(q.scales), {rows, groups});
  out["zero_points"] = ToNumpy<float>(std::move(q.zero_points), {rows, groups});
  if (q.grid == GridKind::kResidualBinary) {
    out["residual_scales"] = ToNumpy<float>(std::move(q.residual_scales), {rows, groups});
  }
  if (!q.column_scales.empty()) {
    const std::size_t cols = q.column_scales.size();
    out["column_scales"] = ToNumpy<float>(std::move(q.column_scales), {cols});
  }
  return out;
}

nb::dict RoundMatrix(const FloatMatrix& weight, const FloatMatrix& hessian, int bits, std::int64_t group_size,
                     const std::string& grid, const std::string& order, int rounds, double dampening, int threads,
                     bool column_scales) {
  CheckShape("hessian", hessian, weight.shape(1), weight.shape(1));
  const RoundingOptions options{.bits = bits,
                                .group_size = group_size,
                                .grid = ParseGrid(grid),
                                .order = ParseOrder(order),
                                .rounds = rounds,
                                .dampening = dampening,
                                .num_threads = threads,
                                .column_scales = column_scales};
  RoundingResult result;
  {
    const nb::gil_scoped_release release;
    result = RoundWithHessian(View(weight), hessian.data(), options);
  }
  nb::dict out = ToDict(std::move(result.matrix));
  out["dampening"] = result.dampening;
  out["diagonal"] = result.diagonal;
  out["float64"] = result.float64;
  return out;
}

nb::dict RoundNearestPy(const FloatMatrix& weight, const std::optional<FloatArray>& importance, int bits,
                        std::int64_t group_size, const std::string& grid, int threads) {
  if (importance && importance->size() != weight.shape(1)) {
    throw Error(ErrorCode::kShapeMismatch, std::to_string(importance->size()) + " values of importance do not fit " +
                                               std::to_string(weight.shape(1)) + " columns");
  }
  const RoundingOptions options{
      .bits = bits, .group_size = group_size, .grid = ParseGrid(grid), .num_threads = threads};
  QuantizedMatrix matrix;
  {
    const nb::gil_scoped_release release;
    matrix = RoundNearest(View(weight), importance ? importance->data() : nullptr, options);
  }
  return ToDict(std::move(matrix));
}

nb::tuple OutputError(const FloatMatrix& weight, const FloatMatrix& quantized,
                      const std::optional<FloatMatrix>& hessian, const std::optional<FloatMatrix>& rows, int threads) {
  CheckShape("quantized weight", quantized, weight.shape(0), weight.shape(1));
  if (hessian.has_value() == rows.has_value()) {
    throw Error(ErrorCode::kInvalidArgument, "give either the hessian or rows of inputs");
  }
  if (hessian) CheckShape("hessian", *hessian, weight.shape(1), weight.shape(1));
  if (rows) CheckShape("matrix of input rows", *rows, rows->shape(0), weight.shape(1));
  OutputSums sums;
  {
    const nb::gil_scoped_release release;
    sums = hessian ? MeasureOutput(View(weight), View(quantized), hessian->data(), threads)
                   : MeasureOutputOnRows(View(weight), View(quantized), rows->data(),
                                         static_cast<std::int64_t>(rows->shape(0)), threads);
  }
  return nb::make_tuple(sums.ww, sums.wq, sums.qq, sums.ee);
}

nb::object LeftToRight(const DoubleMatrix& weight, const DoubleMatrix& hessian, int bits, std::int64_t group_size,
                       double dampening, int threads) {
  CheckShape("hessian", hessian, weight.shape(1), weight.shape(1));
  std::vector<double> values;
  {
    const nb::gil_scoped_release release;
    values = RoundLeftToRight(View(weight), hessian.data(),
                              {.bits = bits, .group_size = group_size, .dampening = dampening, .num_threads = threads});
  }
  return ToNumpy<double>(std::move(values), {weight.shape(0), weight.shape(1)});
}

using Words = nb::ndarray<const std::uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MutableMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void AddSecondMoment(const MutableMatrix& hessian, const ActivationRows& x, int threads) {
  CheckShape("hessian", hessian, static_cast<std::size_t>(x.cols), static_cast<std::size_t>(x.cols));
  const nb::gil_scoped_release release;
  AccumulateSecondMoment(x, hessian.data(), threads);
}

template <typename Array>
ActivationRows ToRows(const Array& x, DType dtype) {
  return {x.data(), dtype, static_cast<std::int64_t>(x.shape(0)), static_cast<std::int64_t>(x.shape(1))};
}

void MirrorUpperPy(const MutableMatrix& hessian) {
  CheckShape("hessian", hessian, hessian.shape(0), hessian.shape(0));
  const nb::gil_scoped_release release;
  MirrorUpper(hessian.data(), static_cast<std::int64_t>(hessian.shape(0)));
}

void BindMoments(nb::module_& m) {
  m.def(
      "accumulate_second_moment",
      [](const MutableMatrix& hessian, const FloatMatrix& x, int threads) {
        AddSecondMoment(hessian, ToRows(x, DType::kF32), threads);
      },
      "hessian"_a.noconvert(), "x"_a.noconvert(), "threads"_a = 0,
      "Upper triangle of hessian [n, n] += x^T x, x float32 [rows, n].");
  m.def(
      "accumulate_second_moment_bf16",
      [](const MutableMatrix& hessian, const Words& x, int threads) {
        AddSecondMoment(hessian, ToRows(x, DType::kBF16), threads);
      },
      "hessian"_a.noconvert(), "x"_a.noconvert(), "threads"_a = 0, "The same, x the bits of bfloat16 as uint16.");
  m.def("mirror_upper", &MirrorUpperPy, "hessian"_a.noconvert(), "Copy the upper triangle to the lower.");
}

}  // namespace

void BindRounding(nb::module_& m) {
  m.def(
      "round_matrix", &RoundMatrix, "weight"_a, "hessian"_a, "bits"_a = 4, "group_size"_a = 128, "grid"_a = "affine",
      "order"_a = "activation", "rounds"_a = 2, "dampening"_a = 0.01, "threads"_a = 0, "column_scales"_a = false,
      "Round float32 weight [rows, cols] so that tr(E H E^T) is small: a dict of codes, scales, zero_points, "
      "residual_scales (residual_binary only), column_scales (on request), group_size, dampening, diagonal, float64.");
  m.def("round_nearest", &RoundNearestPy, "weight"_a, "importance"_a = nb::none(), "bits"_a = 4, "group_size"_a = 128,
        "grid"_a = "affine", "threads"_a = 0,
        "Nearest rounding of float32 weight [rows, cols] on grids fitted with the weight importance [cols] of each "
        "column; the same dict without dampening, diagonal and float64.");
  m.def("output_error", &OutputError, "weight"_a, "quantized"_a, "hessian"_a = nb::none(), "rows"_a = nb::none(),
        "threads"_a = 0,
        "tr(W H W^T), tr(W H Q^T), tr(Q H Q^T), tr(E H E^T), from the hessian or from rows of inputs [n, cols].");
  m.def("round_left_to_right", &LeftToRight, "weight"_a, "hessian"_a, "bits"_a = 4, "group_size"_a = 128,
        "dampening"_a = 0.01, "threads"_a = 0,
        "Textbook GPTQ in float64, min-max grids with integer zero points: the values [rows, cols].");
  BindMoments(m);
}

}  // namespace arrow_quant
