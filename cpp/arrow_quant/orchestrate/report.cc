#include "arrow_quant/orchestrate/report.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

namespace arrow_quant {
namespace {

using Json = nlohmann::ordered_json;

Json FallbackJson(const Fallback& f) {
  return {{"layer", f.layer},
          {"from_bits", f.from_bits},
          {"to_bits", f.to_bits},
          {"from_method", f.from_method},
          {"to_method", f.to_method},
          {"cause", f.cause},
          {"cosine_before", f.cosine_before},
          {"cosine_after", f.cosine_after}};
}

Json TimeGroupsJson(const TensorReport& r) {
  Json groups = Json::array();
  for (const TimeGroupQuality& g : r.time_groups) {
    groups.push_back({{"from", g.from}, {"to", g.to}, {"rows", g.rows}, {"cosine", g.cosine}, {"sqnr_db", g.sqnr_db}});
  }
  return groups;
}

Json ActivationsJson(const ActivationReport& a) {
  if (a.method.empty()) return nullptr;
  const auto measured = [](double error) { return error < 0 ? Json(nullptr) : Json(error); };
  return {{"method", a.method},
          {"ranges", a.ranges},
          {"error", measured(a.error)},
          {"shared_error", measured(a.shared_error)},
          {"bits_per_weight", a.bits_per_weight},
          {"smoothness", measured(a.smoothness)},
          {"jumps", a.smoothness < 0 ? Json(nullptr) : Json(a.jumps)}};
}

Json SpatialJson(const SpatialReport& s) {
  if (s.equalization.empty()) return nullptr;
  const auto measured = [](double error) { return error < 0 ? Json(nullptr) : Json(error); };
  return {{"equalization", s.equalization},
          {"alpha", s.equalization == "grid" ? Json(s.alpha) : Json(nullptr)},
          {"shift", s.shift},
          {"rotation", s.rotation},
          {"error", measured(s.error)},
          {"plain_error", measured(s.plain_error)},
          {"producer", s.producer.empty() ? Json(nullptr) : Json(s.producer)}};
}

Json CorrectionJson(const CorrectionReport& c) {
  if (c.kind.empty()) return nullptr;
  return {{"kind", c.kind},
          {"error_before", c.error_before},
          {"error_after", c.error_after},
          {"bits_per_weight", c.bits_per_weight}};
}

Json TargetJson(const TargetReport& t) {
  if (t.error < 0) return nullptr;
  return {{"corrected", t.corrected}, {"inherited_error", t.inherited}, {"error", t.error}};
}

// What activations tell; null without them.
void AddOutputFigures(const TensorReport& r, Json& json) {
  json["output_cosine"] = r.calibrated ? Json(r.output_cosine) : Json(nullptr);
  json["output_sqnr_db"] = r.calibrated ? Json(r.output_sqnr_db) : Json(nullptr);
  json["dampening"] = r.calibrated ? Json(r.dampening) : Json(nullptr);
  json["time_groups"] = TimeGroupsJson(r);
  json["activations"] = ActivationsJson(r.activations);
  json["spatial"] = SpatialJson(r.spatial);
  json["time_correction"] = CorrectionJson(r.correction);
  json["target"] = TargetJson(r.target);
}

Json LayerJson(const TensorReport& r) {
  Json json = {{"name", r.name},
               {"component", r.component},
               {"shape", r.shape},
               {"dtype", r.dtype},
               {"role", r.role},
               {"bits", r.bits},
               {"group_size", r.group_size},
               {"tail", r.tail},
               {"method", r.method},
               {"grid", r.grid},
               {"column_scales", r.column_scales},
               {"cosine", r.cosine},
               {"sqnr_db", r.sqnr_db},
               {"constant_groups", r.constant_groups},
               {"num_params", r.num_params},
               {"source_bytes", r.source_bytes},
               {"stored_bytes", r.stored_bytes}};
  AddOutputFigures(r, json);
  return json;
}

Json KeptJson(const TensorReport& r) {
  return {{"name", r.name}, {"component", r.component}, {"shape", r.shape},           {"dtype", r.dtype},
          {"role", r.role}, {"reason", r.reason},       {"num_params", r.num_params}, {"source_bytes", r.source_bytes}};
}

Json LayerWidthsJson(const LayerWidths& layer) {
  Json widths = Json::array();
  for (const WidthFigures& w : layer.widths) {
    widths.push_back({{"bits", w.bits}, {"bytes", w.bytes}, {"error", w.error}, {"cosine", w.cosine}});
  }
  return {{"name", layer.name},
          {"component", layer.component},
          {"bits", layer.bits},
          {"sensitivity", layer.sensitivity},
          {"widths", std::move(widths)}};
}

Json PrecisionJson(const PrecisionReport& p) {
  Json uniform = Json::array();
  for (const UniformFigures& u : p.uniform) {
    uniform.push_back({{"bits", u.bits}, {"bytes", u.bytes}, {"error", u.error}});
  }
  Json layers = Json::array();
  for (const LayerWidths& layer : p.layers) layers.push_back(LayerWidthsJson(layer));
  return {{"budget_bytes", p.budget_bytes},
          {"target_error", p.target_error > 0 ? Json(p.target_error) : Json(nullptr)},
          {"sensitivity", p.sensitivity_measured ? "measured" : "none"},
          {"kept_bytes", p.kept_bytes},
          {"smallest_bytes", p.smallest_bytes},
          {"expected_bytes", p.expected_bytes},
          {"error", p.error},
          {"greedy_error", p.greedy_error},
          {"uniform", std::move(uniform)},
          {"layers", std::move(layers)}};
}

}  // namespace

std::string ModelResult::method() const {
  std::map<std::string, std::int64_t> methods;
  for (const TensorReport& r : tensors) {
    if (r.quantized) ++methods[r.method];
  }
  const auto commonest = std::max_element(methods.begin(), methods.end(),
                                          [](const auto& a, const auto& b) { return a.second < b.second; });
  return commonest == methods.end() ? "none" : commonest->first;
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
  return std::count_if(tensors.begin(), tensors.end(), [](const TensorReport& r) {
    return std::any_of(r.fallbacks.begin(), r.fallbacks.end(),
                       [&](const Fallback& f) { return f.from_method != "spatial" || r.spatial.demanded; });
  });
}

std::map<std::string, double> ModelResult::fallback_rate() const {
  std::map<std::string, std::int64_t> left;
  std::map<std::string, std::int64_t> tried;
  for (const TensorReport& r : tensors) {
    std::map<std::string, bool> methods;  // of this layer: whether it was left
    if (r.quantized) methods[r.method] = false;
    if (!r.activations.method.empty()) methods[r.activations.method] = false;
    if (r.spatial.wanted) methods["spatial"] = false;
    for (const Fallback& f : r.fallbacks) methods[f.from_method] = true;
    for (const auto& [method, was_left] : methods) {
      ++tried[method];
      left[method] += was_left ? 1 : 0;
    }
  }
  std::map<std::string, double> rates;
  for (const auto& [method, count] : tried) {
    rates[method] = static_cast<double>(left[method]) / static_cast<double>(count);
  }
  return rates;
}

std::string ToJson(const ActivationReport& report) { return ActivationsJson(report).dump(); }

std::string ToJson(const CorrectionReport& report) { return CorrectionJson(report).dump(); }

std::string FallbacksJson(const TensorReport& report) {
  Json list = Json::array();
  for (const Fallback& f : report.fallbacks) list.push_back(FallbackJson(f));
  return list.dump();
}

std::string ToJson(const TensorReport& report) {
  Json json = {{"role", report.role},
               {"cosine", report.cosine},
               {"sqnr_db", report.sqnr_db},
               {"constant_groups", report.constant_groups}};
  if (report.calibrated) AddOutputFigures(report, json);
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
  json["strategy"] = result.strategy;
  json["calibration"] = result.calibration;
  json["compression_ratio"] = result.compression_ratio();
  json["bits_per_weight"] = result.bits_per_weight();
  json["model_size_mb"] = result.model_size_mb();
  json["source_size_mb"] = result.source_size_mb();
  json["cosine_similarity"] = result.cosine;
  json["sqnr_db"] = result.sqnr_db;
  json["layers"] = std::move(layers);
  json["kept"] = std::move(kept);
  json["merged"] = Json::array();
  for (const MergedTensor& m : result.merged) {
    json["merged"].push_back({{"name", m.name}, {"component", m.component}, {"into", m.into}});
  }
  json["fallbacks"] = std::move(fallbacks);
  json["layers_fallen_back"] = result.layers_fallen_back();
  json["fallback_rate"] = result.fallback_rate();
  json["warnings"] = result.warnings;
  json["mixed_precision"] = result.precision ? PrecisionJson(*result.precision) : Json(nullptr);
  json["resumed_tensors"] = result.resumed_tensors;
  json["quantization_time_s"] = result.seconds;
  json["peak_memory_mb"] = result.peak_memory_mb;
  return json.dump();
}

}  // namespace arrow_quant
