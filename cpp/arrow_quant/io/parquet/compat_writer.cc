#include "arrow_quant/io/parquet/compat_writer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/text.h"
#include "arrow_quant/io/parquet/record_layout.h"

namespace arrow_quant {
namespace {

constexpr std::string_view kForbidden = R"(/\:*?"<>|.)";
constexpr std::size_t kMaxStem = 200;  // leaves room for suffixes within the 255 bytes of a file name
constexpr char kSpatialJson[] =
    R"({"enabled":true,"channel_equalization":false,"activation_smoothing":false,"equalization_scales":[]})";

std::string Stem(std::string_view name) {
  std::string stem(Utf8Prefix(name, kMaxStem));
  for (char& c : stem) {
    if (kForbidden.find(c) != std::string_view::npos) c = '_';
  }
  return stem;
}

std::string LowerCase(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

// One byte per weight, and a scale and zero point for each slice along axis 0.
struct RowCodes {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
  std::vector<float> zero_points;
};

float Expand(std::uint8_t code, float scale, float zero_point) {
  return (static_cast<float>(code) - zero_point) * scale;
}

// The 256 levels between the smallest and the largest value. A constant slice is met exactly.
void FitSlice(std::span<const float> slice, std::uint8_t* codes, float* scale, float* zero_point) {
  const auto [low, high] = std::minmax_element(slice.begin(), slice.end());
  const double range = static_cast<double>(*high) - static_cast<double>(*low);
  *scale = static_cast<float>(range / 255.0);
  if (!(*scale > 0.0F)) {  // constant, or a range below the smallest float
    *scale = *low == 0.0F ? 1.0F : std::fabs(*low);
    *zero_point = *low > 0.0F ? 0.0F : (*low < 0.0F ? 2.0F : 1.0F);
    std::fill_n(codes, slice.size(), std::uint8_t{1});
    return;
  }
  *zero_point = static_cast<float>(-static_cast<double>(*low) / static_cast<double>(*scale));
  for (std::size_t i = 0; i < slice.size(); ++i) {
    const float code = std::nearbyint(slice[i] / *scale + *zero_point);
    codes[i] = static_cast<std::uint8_t>(std::clamp(code, 0.0F, 255.0F));
  }
}

RowCodes FitRows(std::span<const float> weights, std::uint64_t slices) {
  RowCodes fit;
  fit.codes.resize(weights.size());
  fit.scales.resize(slices);
  fit.zero_points.resize(slices);
  const std::size_t width = slices == 0 ? 0 : weights.size() / slices;
  if (width == 0) return fit;
  for (std::size_t i = 0; i < slices; ++i) {
    FitSlice(weights.subspan(i * width, width), fit.codes.data() + i * width, &fit.scales[i], &fit.zero_points[i]);
  }
  return fit;
}

void CheckTensor(const CompatTensor& tensor) {
  const auto fail = [&](const std::string& message, ErrorCode code = ErrorCode::kShapeMismatch) {
    ThrowTensorError("", tensor.name, message, code);
  };
  const std::optional<std::uint64_t> count = CountElements(tensor.shape);
  if (!count || *count != tensor.weights.size()) {
    fail("the shape does not have " + std::to_string(tensor.weights.size()) + " elements");
  }
  const auto bad =
      std::find_if(tensor.weights.begin(), tensor.weights.end(), [](float w) { return !std::isfinite(w); });
  if (tensor.quantized && bad != tensor.weights.end()) {
    fail("weight " + std::to_string(bad - tensor.weights.begin()) + " is " + std::to_string(*bad),
         ErrorCode::kQuantization);
  }
  if (tensor.codes.empty()) return;
  const std::uint64_t slices = tensor.shape.empty() ? 1 : tensor.shape[0];
  if (tensor.codes.size() != *count || tensor.scales.size() != slices || tensor.zero_points.size() != slices) {
    fail("codes, scales and zero points do not have the lengths of the shape");
  }
  if (tensor.bits != 2 && tensor.bits != 4 && tensor.bits != 8) {
    fail("the older layout has no name for " + std::to_string(tensor.bits) + " bits", ErrorCode::kUnsupported);
  }
}

double MaxError(const CompatTensor& tensor, const TensorRecord& record) {
  double worst = 0;
  const std::size_t width = record.scales.empty() ? 0 : tensor.weights.size() / record.scales.size();
  for (std::size_t i = 0; i < tensor.weights.size(); ++i) {
    const float stored = Expand(record.data[i], record.scales[i / width], record.zero_points[i / width]);
    worst = std::max(worst, std::fabs(static_cast<double>(stored) - static_cast<double>(tensor.weights[i])));
  }
  return worst;
}

}  // namespace

std::string CompatFileName(std::string_view tensor_name) { return Stem(tensor_name) + ".parquet"; }

CompatWriter::CompatWriter(std::filesystem::path directory, Durability durability)
    : directory_(std::move(directory)), durability_(durability) {}

std::filesystem::path CompatWriter::NextPath(const std::string& name) {
  const std::string stem = Stem(name);
  std::string candidate = stem;
  for (int i = 2; !used_.insert(LowerCase(candidate)).second; ++i) candidate = stem + "_" + std::to_string(i);
  return directory_ / (candidate + ".parquet");
}

CompatResult CompatWriter::Write(const CompatTensor& tensor) {
  CheckTensor(tensor);
  TensorRecord record;
  record.layer_name = tensor.name;
  record.shape = tensor.shape;
  record.dtype = "float32";
  record.num_params = tensor.weights.size();
  record.modality = tensor.modality;
  // A scalar, or nothing at all, has no slices to put a grid on.
  const bool quantized = tensor.quantized && !tensor.shape.empty() && !tensor.weights.empty();
  RowCodes fit;
  CompatResult result;
  WriterOptions options;
  options.columns = quantized ? RecordColumns::kOldSpatial : RecordColumns::kOldPlain;
  options.durability = durability_;
  if (quantized) {
    const bool exact = !tensor.codes.empty();
    if (!exact) fit = FitRows(tensor.weights, tensor.shape[0]);
    record.data = exact ? tensor.codes : std::span<const std::uint8_t>(fit.codes);
    record.scales = exact ? tensor.scales : std::span<const float>(fit.scales);
    record.zero_points = exact ? tensor.zero_points : std::span<const float>(fit.zero_points);
    record.quant_type = "int" + std::to_string(exact ? tensor.bits : 8);
    record.group_size = 1;
    record.spatial_quant_json = kSpatialJson;
    result.max_error = MaxError(tensor, record);
  } else {
    record.data = {reinterpret_cast<const std::uint8_t*>(tensor.weights.data()), tensor.weights.size_bytes()};
  }
  ParquetModelWriter writer(NextPath(tensor.name), options);
  writer.Append(record);
  result.file = writer.Close();
  return result;
}

}  // namespace arrow_quant
