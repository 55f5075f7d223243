// Spatial quantization of single layers: conversions only.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>

#include "arrow_quant/orchestrate/spatial_quantizer.h"
#include "bindings.h"
#include "numpy.h"

namespace nb = nanobind;
using namespace nb::literals;  // NOLINT(google-build-using-namespace): how nanobind names arguments

namespace arrow_quant {
namespace {

nb::object Floats(std::vector<float> values) {
  const std::size_t n = values.size();
  return ToNumpy<float>(std::move(values), {n});
}

void AddCodes(QuantizedMatrix m, nb::dict& result) {
  const auto rows = static_cast<std::size_t>(m.rows);
  const auto groups = static_cast<std::size_t>(m.groups());
  const std::size_t bytes = m.codes.size();
  result["bits"] = m.bits;
  result["group_size"] = m.group_size;
  result["grid"] = std::string(GridKindName(m.grid));
  result["codes"] = ToNumpy<std::uint8_t>(std::move(m.codes), {bytes});
  result["scales"] = ToNumpy<float>(std::move(m.scales), {rows, groups});
  result["zero_points"] = ToNumpy<float>(std::move(m.zero_points), {rows, groups});
  result["column_scales"] = Floats(std::move(m.column_scales));
  result["rotation_seed"] = nb::cast(m.rotation_seed);
}

nb::dict RangesOf(ActivationTable table) {
  nb::dict ranges;
  ranges["boundaries"] = nb::tuple(nb::cast(table.boundaries));
  ranges["block_sizes"] = nb::tuple(nb::cast(table.block_sizes));
  ranges["channels"] = table.layout.channels;
  ranges["inputs"] = table.layout.inputs;
  ranges["scales"] = Floats(std::move(table.scales));
  ranges["zero_points"] = Floats(std::move(table.zero_points));
  return ranges;
}

nb::dict QuantizePy(const SpatialQuantizer& quantizer, const FloatMatrix& weight, const StatisticsSource& statistics,
                    const std::string& component, const std::string& name, std::int64_t taps) {
  TensorOutcome outcome;
  {
    const nb::gil_scoped_release release;
    outcome = quantizer.Quantize(
        {weight.data(), static_cast<std::int64_t>(weight.shape(0)), static_cast<std::int64_t>(weight.shape(1))},
        statistics, {component, name}, taps);
  }
  nb::dict result;
  AddCodes(std::move(outcome.matrix), result);
  result["shift"] = Floats(std::move(outcome.activations.shift));
  result["report"] = ToJson(outcome.report);
  result["ranges"] = RangesOf(std::move(outcome.activations));
  result["ranges_report"] = ToJson(outcome.report.activations);
  result["fallbacks"] = FallbacksJson(outcome.report);
  return result;
}

}  // namespace

void BindSpatial(nb::module_& m) {
  nb::class_<SpatialQuantizer>(m, "SpatialQuantizer", "Spatial quantization of single layers.")
      .def(
          "__init__",
          [](SpatialQuantizer* self, const std::string& config_json) {
            new (self) SpatialQuantizer(ModelOptionsFromJson(config_json));
          },
          "config_json"_a)
      .def("quantize", &QuantizePy, "weight"_a, "statistics"_a, "component"_a, "name"_a, "taps"_a = 1);
}

}  // namespace arrow_quant
