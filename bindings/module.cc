// The Python module: conversions, the GIL and errors only.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "arrow_quant/base/cpu_isa.h"
#include "arrow_quant/base/error.h"
#include "arrow_quant/base/version.h"
#include "arrow_quant/kernels/to_float32.h"
#include "arrow_quant/model/source.h"
#include "arrow_quant/orchestrate/quantize_model.h"
#include "arrow_quant/orchestrate/run_lock.h"
#include "arrow_quant/orchestrate/source_listing.h"
#include "arrow_quant/orchestrate/staging_directory.h"
#include "arrow_quant/quantize/base_quantizer.h"
#include "arrow_quant/quantize/spatial/block_hadamard.h"
#include "bindings.h"
#include "numpy.h"

namespace nb = nanobind;
using namespace nb::literals;  // NOLINT(google-build-using-namespace): how nanobind names arguments

namespace arrow_quant {

namespace {

// Names of files and tensors may be any bytes.
nb::object ToPython(const std::string& text) {
  return nb::steal(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

void Translate(const std::exception_ptr& p, void*) {
  try {
    std::rethrow_exception(p);
  } catch (const Error& e) {
    const nb::object error =
        nb::module_::import_("arrow_quant_v2.errors")
            .attr("from_core")(std::string(ErrorCodeName(e.code())), ToPython(e.what()), ToPython(e.context().file),
                               ToPython(e.context().tensor), ToPython(e.context().remedy));
    PyErr_SetObject(error.type().ptr(), error.ptr());
  }
}

// The latest news of a run, handed from its threads to the caller's.
struct News {
  std::mutex mutex;
  std::condition_variable changed;
  std::string message;
  double fraction = -1;
  bool done = false;
};

// Released with the Python object, too: a signal can raise before its owner is told to release it.
class OwnedRunLock : public RunLock {
 public:
  using RunLock::RunLock;
  OwnedRunLock(const OwnedRunLock&) = delete;
  OwnedRunLock& operator=(const OwnedRunLock&) = delete;
  ~OwnedRunLock() { Release(); }
};

// Runs work(progress, stop) on a thread of its own; this one reports progress, listens to Ctrl-C and asks should_stop
// every 50 ms.
template <typename Work>
std::string RunReporting(const nb::object& callback, const nb::object& should_stop, const Work& work) {
  News news;
  std::string result;
  std::exception_ptr failure;
  std::jthread job([&](const std::stop_token& stop) {
    try {
      result = ToJson(work(
          [&](const std::string& message, double fraction) {
            const std::lock_guard lock(news.mutex);
            news.message = message;
            news.fraction = fraction;
          },
          stop));
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(news.mutex);
    news.done = true;
    news.changed.notify_all();
  });
  double shown = 0;
  for (bool done = false; !done;) {
    std::string message;
    double fraction = 0;
    {
      const nb::gil_scoped_release release;
      std::unique_lock lock(news.mutex);
      news.changed.wait_for(lock, std::chrono::milliseconds(50), [&] { return news.done; });
      done = news.done;
      message = news.message;
      fraction = news.fraction;
    }
    try {
      if (!callback.is_none() && fraction > shown) callback(message, fraction);
      shown = std::max(shown, fraction);
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      if (!should_stop.is_none() && nb::cast<bool>(should_stop())) job.request_stop();
    } catch (...) {
      job.request_stop();
      const nb::gil_scoped_release release;
      job.join();
      throw;
    }
  }
  {
    const nb::gil_scoped_release release;
    job.join();
  }
  if (failure) std::rethrow_exception(failure);
  return result;
}

std::string QuantizeModelPy(const std::string& input, const std::string& output, const std::string& options_json,
                            const nb::object& callback, const nb::object& should_stop,
                            const StatisticsSource* statistics, const std::string& calibration_kind) {
  const ModelCalibration calibration{statistics, calibration_kind, {}};
  const ModelOptions options = ModelOptionsFromJson(options_json);
  // At once, so that a bar shows before the headers are read and a callback can refuse before anything is made.
  if (!callback.is_none()) callback("reading", 0.0);
  return RunReporting(callback, should_stop, [&](const ProgressFunction& progress, const std::stop_token& stop) {
    return QuantizeModel(input, output, options, progress, stop, calibration);
  });
}

std::string PlanModelPy(const std::string& input, const std::string& options_json, const StatisticsSource* statistics,
                        const std::string& calibration_kind, const nb::object& callback,
                        const nb::object& should_stop) {
  const ModelCalibration calibration{statistics, calibration_kind, {}};
  const ModelOptions options = ModelOptionsFromJson(options_json);
  return RunReporting(callback, should_stop, [&](const ProgressFunction& progress, const std::stop_token& stop) {
    return PlanModel(input, options, calibration, progress, stop);
  });
}

nb::tuple QuantizeArray(const FloatMatrix& weight, int bits, std::int64_t group_size, bool fitted, int threads) {
  const MatrixView<const float> w(weight.data(), static_cast<std::int64_t>(weight.shape(0)),
                                  static_cast<std::int64_t>(weight.shape(1)));
  QuantizedMatrix q;
  {
    const nb::gil_scoped_release release;
    q = QuantizeBase(w, {.bits = bits, .group_size = group_size, .fit = fitted ? GridFit::kFitted : GridFit::kMinMax},
                     threads);
  }
  const auto rows = static_cast<std::size_t>(q.rows);
  const auto groups = static_cast<std::size_t>(q.groups());
  const std::size_t bytes = q.codes.size();
  return nb::make_tuple(ToNumpy<std::uint8_t>(std::move(q.codes), {bytes}),
                        ToNumpy<float>(std::move(q.scales), {rows, groups}),
                        ToNumpy<float>(std::move(q.zero_points), {rows, groups}), q.group_size);
}

void CheckBits(int bits) {
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    throw Error(ErrorCode::kInvalidArgument, "bits is " + std::to_string(bits), {.remedy = "Use 2, 3, 4 or 8."});
  }
}

nb::object DequantizeArray(const ByteArray& codes, std::size_t rows, std::size_t cols, int bits, std::size_t group_size,
                           const FloatArray& scales, const FloatArray& zero_points,
                           const std::optional<FloatArray>& residual_scales,
                           const std::optional<FloatArray>& column_scales,
                           const std::optional<std::uint64_t>& rotation_seed) {
  CheckBits(bits);
  constexpr std::size_t kMaxWeights = std::size_t{1} << 48U;
  std::size_t weights = 0;
  const bool countable = !__builtin_mul_overflow(rows, cols, &weights) && weights <= kMaxWeights && group_size > 0;
  const std::size_t groups = !countable || cols == 0 ? 0 : (cols - 1) / group_size + 1;
  const bool scaled = column_scales && column_scales->size() > 0;
  const bool binary = residual_scales && residual_scales->size() > 0;
  if (!countable || codes.size() != (weights * static_cast<std::size_t>(bits) + 7) / 8 ||
      scales.size() != rows * groups || zero_points.size() != rows * groups ||
      (binary && (bits != 2 || residual_scales->size() != rows * groups)) ||
      (scaled && column_scales->size() != cols)) {
    throw Error(ErrorCode::kShapeMismatch, "codes, scales and zero_points do not fit the matrix",
                {.remedy = "Give ceil(rows * cols * bits / 8) bytes and rows * groups floats each."});
  }
  AlignedVector<float> out(weights);
  {
    const nb::gil_scoped_release release;
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t at = r * groups;
      if (binary) {
        Kernels().dequantize_row_binary(codes.data(), r * cols, cols, group_size, scales.data() + at,
                                        residual_scales->data() + at, zero_points.data() + at, out.data() + r * cols);
      } else {
        Kernels().dequantize_row(codes.data(), r * cols, cols, bits, group_size, scales.data() + at,
                                 zero_points.data() + at, out.data() + r * cols);
      }
    }
    const MatrixView<float> values(out.data(), static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols));
    if (rotation_seed) UnrotateRows(values, *rotation_seed);
    for (std::size_t i = 0; scaled && i < out.size(); ++i) out[i] *= column_scales->data()[i % cols];
  }
  return ToNumpy<float>(std::move(out), {rows, cols});
}

nb::object RotationSignsPy(std::size_t cols, std::uint64_t seed) {
  return ToNumpy<float>(RotationSigns(static_cast<std::int64_t>(cols), seed), {cols});
}

nb::object RotateRowsPy(const FloatMatrix& rows, std::uint64_t seed, bool inverse) {
  AlignedVector<float> out(rows.data(), rows.data() + rows.size());
  const MatrixView<float> view(out.data(), static_cast<std::int64_t>(rows.shape(0)),
                               static_cast<std::int64_t>(rows.shape(1)));
  {
    const nb::gil_scoped_release release;
    inverse ? UnrotateRows(view, seed) : RotateRows(view, seed);
  }
  return ToNumpy<float>(std::move(out), {rows.shape(0), rows.shape(1)});
}

nb::object ToFloat32Py(const ByteArray& data, const std::string& dtype_name) {
  const std::optional<DType> dtype = DTypeFromTorch(dtype_name);
  if (!dtype || !IsFloat(*dtype) || data.size() % ByteSize(*dtype) != 0) {
    throw Error(ErrorCode::kInvalidArgument, "'" + dtype_name + "' is no floating-point dtype of these bytes");
  }
  const std::size_t n = data.size() / ByteSize(*dtype);
  AlignedVector<float> out(n);
  {
    const nb::gil_scoped_release release;
    FastToFloat32(*dtype, reinterpret_cast<const std::byte*>(data.data()), static_cast<std::int64_t>(n), out.data());
  }
  return ToNumpy<float>(std::move(out), {n});
}

nb::object PackPy(const ByteArray& codes, int bits) {
  CheckBits(bits);
  AlignedVector<std::uint8_t> out(static_cast<std::size_t>(PackedBytes(static_cast<std::int64_t>(codes.size()), bits)));
  {
    const nb::gil_scoped_release release;
    Kernels().pack(codes.data(), codes.size(), bits, out.data());
  }
  const std::size_t n = out.size();
  return ToNumpy<std::uint8_t>(std::move(out), {n});
}

nb::object UnpackPy(const ByteArray& bytes, std::size_t n, int bits) {
  CheckBits(bits);
  if (bytes.size() != static_cast<std::size_t>(PackedBytes(static_cast<std::int64_t>(n), bits))) {
    throw Error(ErrorCode::kShapeMismatch, "the bytes do not hold the codes", {.remedy = "Give ceil(n * bits / 8)."});
  }
  AlignedVector<std::uint8_t> out(n);
  {
    const nb::gil_scoped_release release;
    Kernels().unpack(bytes.data(), n, bits, out.data());
  }
  return ToNumpy<std::uint8_t>(std::move(out), {n});
}

nb::tuple ErrorSumsPy(const FloatArray& w, const FloatArray& q) {
  if (w.size() != q.size()) throw Error(ErrorCode::kShapeMismatch, "w and q differ in size");
  ErrorSums sums;
  {
    const nb::gil_scoped_release release;
    sums = Kernels().error_sums(w.data(), q.data(), w.size());
  }
  return nb::make_tuple(sums.ww, sums.wq, sums.qq, sums.ee);
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "C++ core of ArrowQuant V2.";
  nb::register_exception_translator(Translate);
  m.attr("__version__") = kVersion;
  m.attr("arrow_version") = kArrowVersion;
  BindAllocation(m);
  BindConfig(m);
  BindParquet(m);
  BindRounding(m);
  BindStatistics(m);
  BindSpatial(m);
  BindTimeAware(m);
  m.def("active_isa", [] { return std::string(IsaName(ActiveIsa())); }, "Name of the instruction set in use.");
  m.def("quantize_model", &QuantizeModelPy, "input"_a, "output"_a, "options_json"_a, "callback"_a.none(),
        "should_stop"_a.none() = nb::none(), "statistics"_a.none() = nb::none(), "calibration"_a = "none",
        "Quantize a model; returns the result as JSON text. CancelledError once should_stop() is true.");
  nb::class_<OwnedRunLock>(m, "RunLock", "Keeps an output to this run; ConfigurationError while another has it.")
      .def(
          "__init__",
          [](OwnedRunLock* self, const std::string& output) {
            new (self) OwnedRunLock(StagingDirectory::PathFor(output));
          },
          "output"_a)
      .def("release", [](OwnedRunLock& lock) { lock.Release(); });
  m.def(
      "staging_directory", [](const std::string& output) { return StagingDirectory::PathFor(output).string(); },
      "output"_a, "Where a run keeps what it has finished until the output is complete.");
  m.def("plan_model", &PlanModelPy, "input"_a, "options_json"_a, "statistics"_a.none() = nb::none(),
        "calibration"_a = "none", "callback"_a.none() = nb::none(), "should_stop"_a.none() = nb::none(),
        "What quantize_model would do, as JSON text: from headers only, but for mixed precision.");
  m.def(
      "source_kind",
      [](const std::string& path, std::vector<std::string> components, std::optional<std::string> variant) {
        const nb::gil_scoped_release release;
        const ModelSource source =
            ResolveModel(path, {.components = std::move(components), .variant = std::move(variant)});
        return std::string(SourceKindName(source.kind));
      },
      "path"_a, "components"_a, "variant"_a.none(), "file, model, pipeline or parquet.");
  m.def(
      "source_tensors",
      [](const std::string& path) {
        const nb::gil_scoped_release release;
        return ListSourceTensors(path);
      },
      "path"_a, "Where each tensor of a source model lies, as a JSON list.");
  m.def("to_float32", &ToFloat32Py, "data"_a, "dtype"_a, "Little-endian bytes of a torch float dtype to float32.");
  m.def("pack", &PackPy, "codes"_a, "bits"_a, "Codes to a little-endian bit stream.");
  m.def("unpack", &UnpackPy, "bytes"_a, "n"_a, "bits"_a, "The first n codes of a bit stream.");
  m.def("error_sums", &ErrorSumsPy, "w"_a, "q"_a, "Sums w*w, w*q, q*q and (w-q)^2 in double.");
  m.def("quantize_array", &QuantizeArray, "weight"_a, "bits"_a, "group_size"_a, "fitted"_a = false, "threads"_a = 0,
        "Nearest rounding of float32 weight [rows, cols]: (packed codes, scales, zero_points, group_size).");
  m.def("dequantize_array", &DequantizeArray, "codes"_a, "rows"_a, "cols"_a, "bits"_a, "group_size"_a, "scales"_a,
        "zero_points"_a, "residual_scales"_a = nb::none(), "column_scales"_a = nb::none(),
        "rotation_seed"_a = nb::none(),
        "Packed codes to float32 [rows, cols]; of a residual binary grid when there are residual_scales. Rows are then "
        "turned back where there is a rotation_seed, and columns multiplied by column_scales.");
  m.def("rotation_signs", &RotationSignsPy, "cols"_a, "seed"_a, "Signs of the columns of rotated weights.");
  m.def("rotate_rows", &RotateRowsPy, "rows"_a, "seed"_a, "inverse"_a = false,
        "Rows [n, cols] in the basis of rotated weights, or back.");
}

}  // namespace arrow_quant
