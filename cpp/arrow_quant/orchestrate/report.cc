#include "arrow_quant/orchestrate/report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace arrow_quant {
namespace {

using Json = nlohmann::ordered_json;

Json FallbackJson(const Fallback& f) {
  return {{"layer", f.layer},
          {"from_bits", f.from_bits},
          {"to_bits", f.to_bits},
          {"method", f.to_bits == 16 ? "kept" : "base"},
          {"cause", f.cause},
          {"cosine_before", f.cosine_before},
          {"cosine_after", f.cosine_after}};
}

Json LayerJson(const TensorReport& r) {
  return {{"name", r.name},
          {"component", r.component},
          {"shape", r.shape},
          {"dtype", r.dtype},
          {"role", r.role},
          {"bits", r.bits},
          {"group_size", r.group_size},
          {"tail", r.tail},
          {"method", r.method},
          {"cosine", r.cosine},
          {"sqnr_db", r.sqnr_db},
          {"constant_groups", r.constant_groups},
          {"num_params", r.num_params},
          {"source_bytes", r.source_bytes},
          {"stored_bytes", r.stored_bytes}};
}

Json KeptJson(const TensorReport& r) {
  return {{"name", r.name}, {"component", r.component}, {"shape", r.shape},           {"dtype", r.dtype},
          {"role", r.role}, {"reason", r.reason},       {"num_params", r.num_params}, {"source_bytes", r.source_bytes}};
}

}  // namespace

std::string ModelResult::method() const {
  const auto first = std::find_if(tensors.begin(), tensors.end(), [](const TensorReport& r) { return r.quantized; });
  return first == tensors.end() ? "none" : first->method;
}

double ModelResult::compression_ratio() const {
  return parquet_bytes > 0 ? static_cast<double>(source_bytes) / static_cast<double>(parquet_bytes) : 0.0;
}

double ModelResult::bits_per_weight() const {
  return num_params > 0 ? 8 * static_cast<double>(parquet_bytes) / static_cast<double>(num_params) : 0.0;
}

double ModelResult::model_size_mb() const { return static_cast<double>(parquet_bytes) / 1e6; }

double ModelResult::source_size_mb() const { return static_cast<double>(source_bytes) / 1e6; }

std::int64_t ModelResult::layers_quantized() const {
  return std::count_if(tensors.begin(), tensors.end(), [](const TensorReport& r) { return r.quantized; });
}

std::int64_t ModelResult::layers_fallen_back() const {
  return std::count_if(tensors.begin(), tensors.end(), [](const TensorReport& r) { return !r.fallbacks.empty(); });
}

double ModelResult::fallback_rate() const {
  const auto tried = std::count_if(tensors.begin(), tensors.end(),
                                   [](const TensorReport& r) { return r.quantized || !r.fallbacks.empty(); });
  return tried > 0 ? static_cast<double>(layers_fallen_back()) / static_cast<double>(tried) : 0.0;
}

std::string ToJson(const TensorReport& report) {
  const Json json = {{"role", report.role},
                     {"cosine", report.cosine},
                     {"sqnr_db", report.sqnr_db},
                     {"constant_groups", report.constant_groups}};
  return json.dump();
}

std::string ToJson(const ModelResult& result) {
  Json layers = Json::array();
  Json kept = Json::array();
  Json fallbacks = Json::array();
  for (const TensorReport& r : result.tensors) {
    (r.quantized ? layers : kept).push_back(r.quantized ? LayerJson(r) : KeptJson(r));
    for (const Fallback& f : r.fallbacks) fallbacks.push_back(FallbackJson(f));
  }
  Json json;
  json["quantized_path"] = result.quantized_path;
  json["modality"] = result.modality.empty() ? Json(nullptr) : Json(result.modality);
  json["modality_reason"] = result.modality_reason;
  json["source_kind"] = result.source_kind;
  json["bit_width"] = result.bit_width;
  json["group_size"] = result.group_size;
  json["method"] = result.method();
  json["calibration"] = "none";
  json["compression_ratio"] = result.compression_ratio();
  json["bits_per_weight"] = result.bits_per_weight();
  json["model_size_mb"] = result.model_size_mb();
  json["source_size_mb"] = result.source_size_mb();
  json["cosine_similarity"] = result.cosine;
  json["sqnr_db"] = result.sqnr_db;
  json["layers"] = std::move(layers);
  json["kept"] = std::move(kept);
  json["fallbacks"] = std::move(fallbacks);
  json["layers_fallen_back"] = result.layers_fallen_back();
  json["fallback_rate"] = {{"base", result.fallback_rate()}};
  json["warnings"] = result.warnings;
  json["quantization_time_s"] = result.seconds;
  json["peak_memory_mb"] = result.peak_memory_mb;
  return json.dump();
}

}  // namespace arrow_quant
