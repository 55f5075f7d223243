// Activation statistics: conversions only.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/orchestrate/layer_rounding.h"
#include "arrow_quant/orchestrate/statistics_file.h"
#include "bindings.h"
#include "numpy.h"

namespace nb = nanobind;
using namespace nb::literals;  // NOLINT(google-build-using-namespace): how nanobind names arguments

namespace arrow_quant {
namespace {

using AnyRows = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

ActivationRows RowsOf(const AnyRows& array) {
  ActivationRows rows{array.data(), DType::kF32, static_cast<std::int64_t>(array.shape(0)),
                      static_cast<std::int64_t>(array.shape(1))};
  const nb::dlpack::dtype type = array.dtype();
  if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat) && type.bits == 16) {
    rows.dtype = DType::kBF16;
  } else if (type != nb::dtype<float>()) {
    throw Error(ErrorCode::kInvalidArgument, "activations are neither float32 nor bfloat16",
                {.remedy = "Convert them to float32."});
  }
  return rows;
}

nb::object SecondMomentPy(const InputStatistics& input, const std::vector<double>& weights) {
  const auto n = static_cast<std::size_t>(input.channels());
  AlignedVector<float> values;
  {
    const nb::gil_scoped_release release;
    values = input.SecondMoment(weights);
  }
  return ToNumpy<float>(std::move(values), {n, n});
}

nb::object DriftPy(const InputStatistics& input, const std::vector<double>& weights) {
  const auto n = static_cast<std::size_t>(input.channels());
  AlignedVector<float> values;
  {
    const nb::gil_scoped_release release;
    values = input.Drift(weights);
  }
  if (values.empty()) return nb::none();
  return ToNumpy<float>(std::move(values), {n, n});
}

nb::object RoundLayerPy(const FloatMatrix& weight, const std::string& component, const std::string& name, int bits,
                        const StatisticsSource& statistics, const std::string& modality, const std::string& options) {
  const MatrixView<const float> view(weight.data(), static_cast<std::int64_t>(weight.shape(0)),
                                     static_cast<std::int64_t>(weight.shape(1)));
  AlignedVector<float> values;
  {
    const nb::gil_scoped_release release;
    const ModelOptions parsed = ModelOptionsFromJson(options);
    values = RoundLayer(view, {component, name}, bits, statistics, ModalityFromName(modality), parsed);
  }
  return ToNumpy<float>(std::move(values), {weight.shape(0), weight.shape(1)});
}

nb::dict MomentsPy(const std::vector<Moments>& moments) {
  std::vector<double> count;
  std::vector<double> mean;
  std::vector<double> std;
  std::vector<float> min;
  std::vector<float> max;
  for (const Moments& m : moments) {
    count.push_back(m.count);
    mean.push_back(m.mean);
    std.push_back(m.Std());
    min.push_back(m.min);
    max.push_back(m.max);
  }
  const std::size_t n = moments.size();
  nb::dict result;
  result["count"] = ToNumpy<double>(std::move(count), {n});
  result["mean"] = ToNumpy<double>(std::move(mean), {n});
  result["std"] = ToNumpy<double>(std::move(std), {n});
  result["min"] = ToNumpy<float>(std::move(min), {n});
  result["max"] = ToNumpy<float>(std::move(max), {n});
  return result;
}

nb::dict TimestepsPy(const InputStatistics& input) {
  std::vector<double> times;
  std::vector<Moments> moments;
  for (const auto& [time, m] : input.timesteps()) {
    times.push_back(time);
    moments.push_back(m);
  }
  nb::dict result = MomentsPy(moments);
  const std::size_t n = times.size();
  result["time"] = ToNumpy<double>(std::move(times), {n});
  return result;
}

int CheckedGroup(const InputStatistics& input, int group) {
  if (group < 0 || group >= input.options().groups) {
    throw Error(ErrorCode::kInvalidArgument, "there is no time group " + std::to_string(group));
  }
  return group;
}

nb::object HeldOutPy(const InputStatistics& input, int group) {
  AlignedVector<float> rows = input.held_out(CheckedGroup(input, group));
  const auto n = static_cast<std::size_t>(input.channels());
  const std::size_t count = rows.size() / n;
  return ToNumpy<float>(std::move(rows), {count, n});
}

std::vector<std::pair<LayerKey, std::vector<int>>> LayersOf(const std::map<LayerKey, std::vector<int>>& layers) {
  return {layers.begin(), layers.end()};
}

void BindInput(nb::module_& m) {
  nb::class_<InputStatistics>(m, "InputStatistics", "What was seen of one input.")
      .def_prop_ro("channels", &InputStatistics::channels)
      .def_prop_ro("non_finite_rows", &InputStatistics::non_finite_rows)
      .def(
          "count", [](const InputStatistics& s, int group) { return s.count(CheckedGroup(s, group)); }, "group"_a,
          "Rows of a time group in the second moment.")
      .def("second_moment", &SecondMomentPy, "weights"_a = std::vector<double>{},
           "E[x x^T], float32 [channels, channels]; one weight per time group, or all rows alike.")
      .def("drift", &DriftPy, "weights"_a = std::vector<double>{},
           "E[(x_float - x) x^T] in the same way; None where no float model ran beside this one.")
      .def(
          "channel_moments",
          [](const InputStatistics& s, int group) { return MomentsPy(s.channel_moments(CheckedGroup(s, group))); },
          "group"_a, "Arrays [channels]: count, mean, std, min, max.")
      .def("timesteps", &TimestepsPy, "Arrays [timesteps]: time, count, mean, std, min, max over all channels.")
      .def("held_out", &HeldOutPy, "group"_a, "Whole held-out rows of a time group, float32 [rows, channels].");
}

}  // namespace

void BindStatistics(nb::module_& m) {
  m.def(
      "uniform_time_groups",
      [](double span, int count, int steps) { return TimeGroups::Uniform(span, count, steps).boundaries(); }, "span"_a,
      "count"_a, "steps"_a = 0,
      "Boundaries of `count` equally long time groups over [0, span], at most `steps` of them where that is not 0.");
  BindInput(m);
  nb::class_<StatisticsSource>(m, "StatisticsSource", "Where quantization finds activations.")
      .def_prop_ro("sensitivity", &StatisticsSource::sensitivity,
                   "What an error of the model in each time group does to the final sample; empty: not measured.")
      .def_prop_ro("boundaries", [](const StatisticsSource& s) { return s.time_groups().boundaries(); });
  nb::class_<ActivationStatistics, StatisticsSource>(m, "ActivationStatistics", "Statistics of a model in memory.")
      .def(
          "__init__",
          [](ActivationStatistics* self, std::vector<double> boundaries, bool keep_groups, std::int64_t held_out_rows,
             std::uint64_t seed) {
            new (self) ActivationStatistics(TimeGroups(std::move(boundaries)), keep_groups, held_out_rows, seed);
          },
          "boundaries"_a, "keep_groups"_a = true, "held_out_rows"_a = 128, "seed"_a = 0)
      .def("__len__", &ActivationStatistics::size)
      .def("add_input", &ActivationStatistics::AddInput, "channels"_a, "A new input; its number.")
      .def(
          "map_layer",
          [](ActivationStatistics& s, const std::string& component, const std::string& name, std::vector<int> inputs) {
            s.MapLayer({component, name}, std::move(inputs));
          },
          "component"_a, "name"_a, "inputs"_a, "Say which inputs a tensor of the model is multiplied with.")
      .def(
          "update",
          [](ActivationStatistics& s, int input, const AnyRows& rows, double time, bool held_out, int threads,
             const std::optional<AnyRows>& reference) {
            const ActivationRows view = RowsOf(rows);
            const ActivationRows float_rows = reference ? RowsOf(*reference) : ActivationRows{};
            const nb::gil_scoped_release release;
            s.Update(input, view, time, held_out, threads, reference ? &float_rows : nullptr);
          },
          "input"_a, "rows"_a, "time"_a, "held_out"_a = false, "threads"_a = 0, "reference"_a.none() = nb::none(),
          "Add rows, float32 or bfloat16 [rows, channels], without a copy; reference: those of the float model in "
          "their places.")
      .def("set_sensitivity", &ActivationStatistics::SetSensitivity, "sensitivity"_a)
      .def("merge", &ActivationStatistics::Merge, "other"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("input", &ActivationStatistics::input, "i"_a, nb::rv_policy::reference_internal)
      .def("layers", [](const ActivationStatistics& s) { return LayersOf(s.layers()); })
      .def(
          "save",
          [](const ActivationStatistics& s, const std::string& path, const std::string& facts) {
            const nb::gil_scoped_release release;
            WriteStatistics(s, facts, path);
          },
          "path"_a, "facts"_a = "{}", "Write one Parquet file; `facts` is a JSON object kept with it.");
  nb::class_<StatisticsWriter>(m, "StatisticsWriter", "Writes statistics to one file, part by part.")
      .def(
          "__init__", [](StatisticsWriter* self, const std::string& path) { new (self) StatisticsWriter(path); },
          "path"_a)
      .def("append", &StatisticsWriter::Append, "part"_a, nb::call_guard<nb::gil_scoped_release>())
      .def(
          "close",
          [](StatisticsWriter& w, const std::string& facts, const std::vector<double>& sensitivity) {
            const nb::gil_scoped_release release;
            w.Close(facts, sensitivity);
          },
          "facts"_a = "{}", "sensitivity"_a = std::vector<double>{}, "Make the file appear.");
  nb::class_<StatisticsFile, StatisticsSource>(m, "StatisticsFile", "Statistics in a file, read when asked for.")
      .def(
          "__init__", [](StatisticsFile* self, const std::string& path) { new (self) StatisticsFile(path); }, "path"_a)
      .def("__len__", &StatisticsFile::size)
      .def_prop_ro("facts", &StatisticsFile::facts)
      .def("layers", [](const StatisticsFile& s) { return LayersOf(s.layers()); })
      .def(
          "input", [](const StatisticsFile& s, int i) { return InputStatistics(*s.Input(i)); }, "i"_a,
          "A copy of one input's statistics.");
  m.def("round_layer", &RoundLayerPy, "weight"_a, "component"_a, "name"_a, "bits"_a, "statistics"_a, "modality"_a,
        "options_json"_a,
        "The values that a run leaves of a layer's weight, float32 [rows, cols], but for its fallbacks.");
}

}  // namespace arrow_quant
