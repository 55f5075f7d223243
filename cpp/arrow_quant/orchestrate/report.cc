#include "arrow_quant/orchestrate/report.h"

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
  std::int64_t fell_back = 0;
  std::string method = "none";
  for (const TensorReport& r : result.tensors) {
    (r.quantized ? layers : kept).push_back(r.quantized ? LayerJson(r) : KeptJson(r));
    if (r.quantized && method == "none") method = r.method;
    for (const Fallback& f : r.fallbacks) fallbacks.push_back(FallbackJson(f));
    if (!r.fallbacks.empty()) ++fell_back;
  }
  std::int64_t kept_by_fallback = 0;
  for (const TensorReport& r : result.tensors) kept_by_fallback += !r.quantized && !r.fallbacks.empty() ? 1 : 0;
  const auto tried = static_cast<double>(layers.size()) + static_cast<double>(kept_by_fallback);
  const double bytes = static_cast<double>(result.parquet_bytes);
  Json json;
  json["quantized_path"] = result.quantized_path;
  json["modality"] = result.modality.empty() ? Json(nullptr) : Json(result.modality);
  json["modality_reason"] = result.modality_reason;
  json["source_kind"] = result.source_kind;
  json["bit_width"] = result.bit_width;
  json["group_size"] = result.group_size;
  json["method"] = method;
  json["calibration"] = "none";
  json["compression_ratio"] = bytes > 0 ? static_cast<double>(result.source_bytes) / bytes : 0.0;
  json["bits_per_weight"] = result.num_params > 0 ? 8 * bytes / static_cast<double>(result.num_params) : 0.0;
  json["model_size_mb"] = bytes / 1e6;
  json["source_size_mb"] = static_cast<double>(result.source_bytes) / 1e6;
  json["cosine_similarity"] = result.cosine;
  json["sqnr_db"] = result.sqnr_db;
  json["layers"] = std::move(layers);
  json["kept"] = std::move(kept);
  json["merged"] = Json::array();
  for (const MergedTensor& m : result.merged) {
    json["merged"].push_back({{"name", m.name}, {"component", m.component}, {"into", m.into}});
  }
  json["fallbacks"] = std::move(fallbacks);
  json["layers_fallen_back"] = fell_back;
  json["fallback_rate"] = {{"base", tried > 0 ? static_cast<double>(fell_back) / tried : 0.0}};
  json["warnings"] = result.warnings;
  json["quantization_time_s"] = result.seconds;
  json["peak_memory_mb"] = result.peak_memory_mb;
  return json.dump();
}

}  // namespace arrow_quant
