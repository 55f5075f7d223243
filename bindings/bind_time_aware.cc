// Time-aware parameters of single layers: conversions only.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <utility>

#include "arrow_quant/orchestrate/time_aware_quantizer.h"
#include "bindings.h"
#include "numpy.h"

namespace nb = nanobind;
using namespace nb::literals;  // NOLINT(google-build-using-namespace): how nanobind names arguments

namespace arrow_quant {
namespace {

MatrixView<const float> ViewOf(const FloatMatrix& matrix) {
  return {matrix.data(), static_cast<std::int64_t>(matrix.shape(0)), static_cast<std::int64_t>(matrix.shape(1))};
}

std::vector<float> ValuesOf(const std::optional<FloatArray>& array) {
  return array ? std::vector<float>(array->data(), array->data() + array->size()) : std::vector<float>();
}

nb::object Floats(std::vector<float> values) {
  const std::size_t n = values.size();
  return ToNumpy<float>(std::move(values), {n});
}

nb::dict RangesPy(const TimeAwareQuantizer& quantizer, const FloatMatrix& weight, const StatisticsSource& statistics,
                  const std::string& component, const std::string& name, std::int64_t taps,
                  const std::optional<FloatArray>& column_scales) {
  ActivationOutcome outcome;
  {
    const nb::gil_scoped_release release;
    outcome =
        quantizer.Ranges(ViewOf(weight), statistics, {component, name}, taps, {.scales = ValuesOf(column_scales)});
  }
  nb::dict result;
  result["boundaries"] = nb::tuple(nb::cast(outcome.table.boundaries));
  result["block_sizes"] = nb::tuple(nb::cast(outcome.table.block_sizes));
  result["channels"] = outcome.table.layout.channels;
  result["inputs"] = outcome.table.layout.inputs;
  result["scales"] = Floats(std::move(outcome.table.scales));
  result["zero_points"] = Floats(std::move(outcome.table.zero_points));
  result["report"] = ToJson(outcome.report);
  result["fallback_cause"] = outcome.fallback_cause;
  return result;
}

nb::dict CorrectionsPy(const TimeAwareQuantizer& quantizer, const FloatMatrix& weight, const FloatMatrix& quantized,
                       const StatisticsSource& statistics, const std::string& component, const std::string& name) {
  CorrectionOutcome outcome;
  {
    const nb::gil_scoped_release release;
    outcome = quantizer.Corrections(ViewOf(weight), ViewOf(quantized), statistics, {component, name});
  }
  nb::dict result;
  result["boundaries"] = nb::tuple(nb::cast(outcome.boundaries));
  result["gains"] = Floats(std::move(outcome.correction.gains));
  result["biases"] = Floats(std::move(outcome.correction.biases));
  result["report"] = ToJson(outcome.report);
  return result;
}

}  // namespace

void BindTimeAware(nb::module_& m) {
  nb::class_<TimeAwareQuantizer>(m, "TimeAwareQuantizer", "Time-aware parameters of single layers.")
      .def(
          "__init__",
          [](TimeAwareQuantizer* self, const std::string& config_json) {
            new (self) TimeAwareQuantizer(ModelOptionsFromJson(config_json).activations);
          },
          "config_json"_a)
      .def("ranges", &RangesPy, "weight"_a, "statistics"_a, "component"_a, "name"_a, "taps"_a = 1,
           "column_scales"_a = nb::none())
      .def("corrections", &CorrectionsPy, "weight"_a, "quantized"_a, "statistics"_a, "component"_a, "name"_a);
}

}  // namespace arrow_quant
