#include "arrow_quant/model/modality.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/json_internal.h"
#include "arrow_quant/model/architecture.h"

namespace arrow_quant {
namespace {

constexpr std::array kNames = {
    std::pair{Modality::kText, std::string_view("text")}, std::pair{Modality::kCode, std::string_view("code")},
    std::pair{Modality::kImage, std::string_view("image")}, std::pair{Modality::kAudio, std::string_view("audio")}};

constexpr const char* kRemedy = "Set the option modality to text, code, image or audio.";

// Parts of layer names; a tensor votes at most once for each modality. Code is written in the same layers as text.
struct Votes {
  Modality modality;
  std::vector<std::string_view> parts;
};
const std::array<Votes, 3>& VoteTable() {
  static const std::array<Votes, 3> table = {
      Votes{Modality::kImage,
            {"conv_in.", "conv_out.", "down_blocks.", "up_blocks.", "mid_block.", "input_blocks.", "unet", "vae.",
             "patch_embed", "to_rgb", "pos_embed.proj.", "x_embedder.", "transformer_blocks.", "double_blocks.",
             "adaln_single."}},
      Votes{
          Modality::kAudio,
          {"mel_", "melspec", "spectrogram", "waveform", "audio", "vocoder", "preprocess_conv.", "postprocess_conv."}},
      Votes{Modality::kText,
            {"embed_tokens.", "lm_head.", "self_attn.", "mlp.gate_proj.", "mlp.up_proj.", "mlp.down_proj.",
             "input_layernorm.", "post_attention_layernorm.", "rotary_emb.", "wte.", "wpe.", "transformer.h.",
             "model.layers.", "tok_embeddings.", "word_embeddings.", "vocab_embed."}}};
  return table;
}

Modality ParseModality(const std::string& value, const std::string& where, const std::string& path) {
  if (const auto modality = ModalityFromName(value)) return *modality;
  throw Error(ErrorCode::kMetadata,
              where + " gives the modality '" + value + "', which is none of text, code, image, audio",
              {.file = path, .remedy = kRemedy});
}

std::optional<ModalityDecision> FromMetadataFile(const ModalityEvidence& evidence) {
  if (evidence.metadata_json.empty()) return std::nullopt;
  const nlohmann::json metadata = ParseJson(evidence.metadata_json, "metadata.json", kPythonJson);
  if (!metadata.is_object()) {
    throw Error(ErrorCode::kMetadata, "metadata.json is not a JSON object",
                {.file = evidence.model_path, .remedy = kRemedy});
  }
  const auto found = metadata.find("modality");
  if (found == metadata.end() || found->is_null()) return std::nullopt;
  const std::string value = found->is_string() ? found->get<std::string>()
                                               : found->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const bool is_name = found->is_string();
  const Modality modality =
      ParseModality(is_name ? value : value + " (not a string)", "metadata.json", evidence.model_path);
  return ModalityDecision{modality, "metadata.json: modality " + value};
}

// Words in the `architecture` that the older converter wrote, "dit-text" or "audio-diffusion", in its order.
std::optional<Modality> FromOldArchitecture(const std::string& architecture) {
  std::string lower = architecture;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto has = [&](const char* word) { return lower.find(word) != std::string::npos; };
  if (!has("dit") && !has("diffusion")) return std::nullopt;
  if (has("text") || has("mdlm")) return Modality::kText;
  if (has("image") || has("vae")) return Modality::kImage;
  if (has("audio") || has("wavegrad")) return Modality::kAudio;
  return has("code") ? std::optional(Modality::kCode) : std::nullopt;
}

std::optional<ModalityDecision> FromSafetensorsMetadata(const ModalityEvidence& evidence) {
  const auto& metadata = evidence.safetensors_metadata;
  if (const auto found = metadata.find("modality"); found != metadata.end()) {
    return ModalityDecision{ParseModality(found->second, "the safetensors metadata", evidence.model_path),
                            "safetensors metadata: modality " + found->second};
  }
  for (const char* key : {"architecture", "modelspec.architecture"}) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) continue;
    const std::string reason = "safetensors metadata: " + std::string(key) + " " + found->second;
    if (const auto modality = FromOldArchitecture(found->second)) return ModalityDecision{*modality, reason};
    std::optional<ArchitectureKind> kind = LookUpClass(found->second);
    if (!kind) kind = LookUpModelType(found->second);
    if (kind) return ModalityDecision{kind->modality, reason};
  }
  return std::nullopt;
}

// Class names and model type of config.json or model_index.json.
std::optional<ModalityDecision> FromConfig(const std::string& text, const std::string& file) {
  if (text.empty()) return std::nullopt;
  const nlohmann::json config = ParseJson(text, file, kPythonJson);
  if (!config.is_object()) return std::nullopt;
  std::vector<std::pair<std::string, std::string>> classes = {{"_class_name", StringAt(config, "_class_name")}};
  if (const auto listed = config.find("architectures"); listed != config.end() && listed->is_array()) {
    for (const nlohmann::json& name : *listed) {
      if (name.is_string()) classes.emplace_back("architectures", name.get<std::string>());
    }
  }
  for (const auto& [key, name] : classes) {
    if (const auto kind = LookUpClass(name)) return ModalityDecision{kind->modality, file + ": " + key + " " + name};
  }
  const std::string type = StringAt(config, "model_type");
  if (const auto kind = LookUpModelType(type)) return ModalityDecision{kind->modality, file + ": model_type " + type};
  return std::nullopt;
}

std::optional<ModalityDecision> FromTensorNames(std::span<const TensorInfo> tensors) {
  std::array<int, 3> counts{};
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const std::vector<std::string_view>& parts = VoteTable()[i].parts;
    counts[i] = static_cast<int>(std::count_if(tensors.begin(), tensors.end(), [&](const TensorInfo& info) {
      return std::any_of(parts.begin(), parts.end(),
                         [&](std::string_view part) { return info.name.find(part) != std::string::npos; });
    }));
  }
  const auto best = std::max_element(counts.begin(), counts.end());
  if (*best == 0 || std::count(counts.begin(), counts.end(), *best) > 1) return std::nullopt;
  const Modality modality = VoteTable()[static_cast<std::size_t>(best - counts.begin())].modality;
  return ModalityDecision{modality, "tensor names: " + std::to_string(*best) + " of " + std::to_string(tensors.size()) +
                                        " are typical of " + std::string(ModalityName(modality))};
}

}  // namespace

std::string_view ModalityName(Modality modality) { return kNames[static_cast<std::size_t>(modality)].second; }

std::optional<Modality> ModalityFromName(std::string_view name) {
  for (const auto& [modality, known] : kNames) {
    if (known == name) return modality;
  }
  return std::nullopt;
}

ModalityDecision DetectModality(const ModalityEvidence& evidence) {
  if (evidence.configured) return {*evidence.configured, "configuration: modality"};
  if (auto decision = FromMetadataFile(evidence)) return *std::move(decision);
  if (auto decision = FromSafetensorsMetadata(evidence)) return *std::move(decision);
  if (auto decision = FromConfig(evidence.pipeline_json, "model_index.json")) return *std::move(decision);
  if (auto decision = FromConfig(evidence.config_json, "config.json")) return *std::move(decision);
  if (auto decision = FromTensorNames(evidence.tensors)) return *std::move(decision);
  throw Error(ErrorCode::kMetadata,
              "neither metadata.json, config.json nor the tensors' names tell the model's modality",
              {.file = evidence.model_path, .remedy = kRemedy});
}

}  // namespace arrow_quant
