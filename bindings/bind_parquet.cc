// Parquet models: reading in every layout, and writing for older readers.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/base/aligned_buffer.h"
#include "arrow_quant/base/error.h"
#include "arrow_quant/io/parquet/compat_writer.h"
#include "arrow_quant/io/parquet/legacy.h"
#include "arrow_quant/io/parquet/manifest.h"
#include "arrow_quant/io/parquet/model_reader.h"
#include "arrow_quant/io/parquet/model_writer.h"
#include "arrow_quant/numeric/convert.h"
#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;  // NOLINT(google-build-using-namespace): how nanobind names arguments

namespace arrow_quant {
namespace {

using Json = nlohmann::ordered_json;
using AnyFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;

// A numpy array over a range whose memory `owner` keeps alive; nothing is copied.
template <typename T>
nb::object View(std::span<const T> range, const std::shared_ptr<const void>& owner) {
  static const T empty{};
  auto* kept = new std::shared_ptr<const void>(owner);
  const nb::capsule capsule(kept, [](void* p) noexcept { delete static_cast<std::shared_ptr<const void>*>(p); });
  const std::size_t size = range.size();
  const T* data = range.empty() ? &empty : range.data();
  return nb::cast(nb::ndarray<nb::numpy, const T, nb::ndim<1>>(data, {size}, capsule));
}

Json EntryJson(const TensorEntry& entry) {
  const TensorRecord& r = entry.record;
  Json json = {{"name", r.layer_name},
               {"component", r.component},
               {"shape", r.shape},
               {"dtype", r.dtype},
               {"bits", r.bits},
               {"quant_type", r.quant_type},
               {"grid", r.grid},
               {"row_rank", r.row_rank},
               {"method", r.method},
               {"reason", r.reason},
               {"layout", ParquetLayoutName(entry.layout)},
               {"file", entry.file.string()},
               {"stored_bytes", entry.stored_bytes}};
  json["quant_axis"] = r.quant_axis ? Json(*r.quant_axis) : Json(nullptr);
  json["group_size"] = r.group_size ? Json(*r.group_size) : Json(nullptr);
  json["modality"] = r.modality ? Json(*r.modality) : Json(nullptr);
  return json;
}

std::string ListTensors(const ParquetModel& model) {
  Json list = Json::array();
  for (const TensorEntry& entry : model.tensors()) list.push_back(EntryJson(entry));
  return list.dump(-1, ' ', false, Json::error_handler_t::replace);
}

LoadedTensor LoadReleased(const ParquetModel& model, std::size_t index) {
  const nb::gil_scoped_release release;
  if (index >= model.tensors().size()) throw Error(ErrorCode::kInvalidArgument, "no tensor of that index");
  return model.Load(index);
}

nb::dict LoadTensor(const ParquetModel& model, std::size_t index) {
  const LoadedTensor tensor = LoadReleased(model, index);
  nb::dict values;
  values["data"] = View(tensor.record.data, tensor.owner);
  values["scales"] = View(tensor.record.scales, tensor.owner);
  values["zero_points"] = View(tensor.record.zero_points, tensor.owner);
  values["residual_scales"] = View(tensor.record.residual_scales, tensor.owner);
  values["column_scales"] = View(tensor.record.equalization_scales, tensor.owner);
  values["shift"] = View(tensor.record.shift, tensor.owner);
  values["rotation_seed"] = nb::cast(tensor.record.rotation_seed);
  values["equalization_producer"] = nb::cast(tensor.record.equalization_producer);
  values["correction_boundaries"] = nb::tuple(nb::cast(tensor.record.correction_boundaries));
  values["time_gamma"] = View(tensor.record.time_gamma, tensor.owner);
  values["time_beta"] = View(tensor.record.time_beta, tensor.owner);
  values["time_boundaries"] = nb::tuple(nb::cast(tensor.record.time_boundaries));
  values["time_block_sizes"] = nb::tuple(nb::cast(tensor.record.time_block_sizes));
  values["time_scales"] = View(tensor.record.time_scales, tensor.owner);
  values["time_zero_points"] = View(tensor.record.time_zero_points, tensor.owner);
  return values;
}

// The values of a tensor of an older layout: raw bytes with their dtype, or the weights of its codes as float32.
nb::dict LoadLegacy(const ParquetModel& model, std::size_t index, bool msb_first) {
  const LegacyTensor legacy = NormalizeLegacy(LoadReleased(model, index), {.msb_first = msb_first});
  nb::dict values;
  values["warnings"] = legacy.warnings;
  if (legacy.storage == CodeStorage::kRaw) {
    values["dtype"] = std::string(TorchName(legacy.raw_dtype));
    values["data"] = View(legacy.data, legacy.owner);
    return values;
  }
  auto weights = std::make_shared<AlignedVector<float>>(legacy.num_params);
  {
    const nb::gil_scoped_release release;
    DequantizeLegacy(legacy, weights->data());
  }
  values["weights"] = View(std::span<const float>(*weights), weights);
  return values;
}

nb::tuple WriteCompat(CompatWriter& writer, const std::string& name, const std::vector<std::uint64_t>& shape,
                      const AnyFloats& weights, bool quantized, const std::optional<std::string>& modality) {
  CompatResult result;
  {
    const nb::gil_scoped_release release;
    result = writer.Write({.name = name,
                           .shape = shape,
                           .weights = std::span(weights.data(), weights.size()),
                           .quantized = quantized,
                           .modality = modality});
  }
  return nb::make_tuple(result.file.path.string(), result.file.bytes, result.max_error);
}

std::span<const float> Range(const AnyFloats& values) { return {values.data(), values.size()}; }

// One quantized matrix in a file of its own; returns the bytes of the file.
std::uint64_t WriteLayer(const std::string& path, const std::string& name, const std::vector<std::uint64_t>& shape,
                         int bits, std::uint64_t group_size, const std::string& grid,
                         const nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& codes,
                         const AnyFloats& scales, const AnyFloats& zero_points, const AnyFloats& residual_scales,
                         const AnyFloats& column_scales) {
  TensorRecord record;
  record.layer_name = name;
  record.shape = shape;
  record.dtype = "float32";
  record.num_params = 1;
  for (const std::uint64_t side : shape) record.num_params *= side;
  record.quant_type = "int" + std::to_string(bits);
  record.quant_axis = 0;
  record.group_size = group_size;
  record.bits = bits;
  record.packing = "lsb";
  record.grid = grid;
  record.zero_point_kind = "float";
  record.is_diffusion_model = false;
  record.data = {codes.data(), codes.size()};
  record.scales = Range(scales);
  record.zero_points = Range(zero_points);
  record.residual_scales = Range(residual_scales);
  record.equalization_scales = Range(column_scales);
  record.method = "layer";
  const nb::gil_scoped_release release;
  ParquetModelWriter writer(path);
  writer.Append(record);
  return writer.Close().bytes;
}

nb::bytes FromFloat32(const AnyFloats& values, const std::string& dtype) {
  if (dtype == "float32") return nb::bytes(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  if (dtype != "float16" && dtype != "bfloat16") {
    throw Error(ErrorCode::kInvalidArgument, "dtype is '" + dtype + "'",
                {.remedy = "Use float16, bfloat16 or float32."});
  }
  std::vector<std::uint16_t> out(values.size());
  const bool half = dtype == "float16";
  {
    const nb::gil_scoped_release release;
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = half ? FloatToF16(values.data()[i]) : FloatToBF16(values.data()[i]);
    }
  }
  return nb::bytes(reinterpret_cast<const char*>(out.data()), out.size() * 2);
}

}  // namespace

void BindParquet(nb::module_& m) {
  nb::class_<ParquetModel>(m, "ParquetModel", "Tensors of Parquet files, in our layout and the older ones.")
      .def_static(
          "open",
          [](const std::string& path) {
            const nb::gil_scoped_release release;
            return ParquetModel::Open(path);
          },
          "path"_a)
      .def("tensors_json", &ListTensors, "Name, shape, dtype, layout, ... of each tensor, without values.")
      .def("load", &LoadTensor, "index"_a,
           "data, scales, zero_points, residual_scales, column_scales, shift, time_scales, time_zero_points, "
           "time_gamma, "
           "time_beta of one tensor, without copies, and rotation_seed, equalization_producer, time_boundaries, "
           "time_block_sizes, correction_boundaries.")
      .def("load_legacy", &LoadLegacy, "index"_a, "msb_first"_a = false,
           "data and dtype, or weights (float32), and warnings, of a tensor of an older layout.");
  nb::class_<CompatWriter>(m, "CompatWriter", "Writes the older one-byte-per-weight V2 Extended.")
      .def(
          "__init__", [](CompatWriter* self, const std::string& directory) { new (self) CompatWriter(directory); },
          "directory"_a)
      .def("write", &WriteCompat, "name"_a, "shape"_a, "weights"_a, "quantized"_a, "modality"_a.none(),
           "(path, bytes, largest error) of one tensor.");
  m.def("write_layer", &WriteLayer, "path"_a, "name"_a, "shape"_a, "bits"_a, "group_size"_a, "grid"_a, "codes"_a,
        "scales"_a, "zero_points"_a, "residual_scales"_a, "column_scales"_a,
        "One quantized matrix, its rows the first axis, as a Parquet file; returns its bytes.");
  m.def("from_float32", &FromFloat32, "values"_a, "dtype"_a,
        "Bytes of float32 values as float16, bfloat16 or float32, to nearest even.");
  m.def(
      "verify_manifest",
      [](const std::string& directory, bool checksums) {
        const nb::gil_scoped_release release;
        return VerifyManifest(directory, checksums ? VerifyDepth::kChecksums : VerifyDepth::kSizes);
      },
      "directory"_a, "checksums"_a, "What is wrong with the files of a manifest, a sentence each.");
}

}  // namespace arrow_quant
