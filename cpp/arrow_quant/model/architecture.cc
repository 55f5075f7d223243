#include "arrow_quant/model/architecture.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "arrow_quant/io/json_internal.h"

namespace arrow_quant {
namespace {

struct Entry {
  std::string_view text;
  Modality modality;
  ModelFamily family;
};

constexpr auto kText = Modality::kText;
constexpr auto kCode = Modality::kCode;
constexpr auto kImage = Modality::kImage;
constexpr auto kAudio = Modality::kAudio;
constexpr auto kLanguage = ModelFamily::kLanguageModel;
constexpr auto kDiffusion = ModelFamily::kDiffusionTransformer;
constexpr auto kUNet = ModelFamily::kUNet;
constexpr auto kSound = ModelFamily::kAudio;
constexpr auto kOther = ModelFamily::kUnknown;

// Parts of class names, case-sensitive ("DiT" is not in "ConditionalGeneration"). The first that fits counts: sound and
// language before pictures, since "StableAudioDiTModel" and "AudioLDM2UNet2DConditionModel" fit both.
constexpr std::array kClassParts = {
    Entry{"StableAudio", kAudio, kSound},
    Entry{"AudioLDM", kAudio, kSound},
    Entry{"MusicLDM", kAudio, kSound},
    Entry{"Audio", kAudio, kSound},
    Entry{"AceStep", kAudio, kSound},
    Entry{"ACEStep", kAudio, kSound},
    Entry{"DanceDiffusion", kAudio, kSound},
    Entry{"SpectrogramDiffusion", kAudio, kSound},
    Entry{"UNet1D", kAudio, kSound},
    Entry{"Oobleck", kAudio, kSound},
    Entry{"WaveGrad", kAudio, kSound},
    Entry{"DiffWave", kAudio, kSound},
    Entry{"Vocoder", kAudio, kSound},
    Entry{"HifiGan", kAudio, kSound},
    Entry{"Speech", kAudio, kSound},
    Entry{"Coder", kCode, kLanguage},
    Entry{"CodeGen", kCode, kLanguage},
    Entry{"LLaDA", kText, kLanguage},
    Entry{"Dream", kText, kLanguage},
    Entry{"MDLM", kText, kLanguage},
    Entry{"SEDD", kText, kLanguage},
    Entry{"BD3LM", kText, kLanguage},
    Entry{"MaskedLM", kText, kLanguage},
    Entry{"CausalLM", kText, kLanguage},
    Entry{"LMHeadModel", kText, kLanguage},
    Entry{"T5", kText, kLanguage},
    Entry{"UNet", kImage, kUNet},
    Entry{"Unet", kImage, kUNet},
    Entry{"StableCascade", kImage, kUNet},
    Entry{"DDPM", kImage, kUNet},
    Entry{"Transformer2DModel", kImage, kDiffusion},  // also DiT, PixArt, SD3, Flux, Sana, Lumina, QwenImage
    Entry{"Transformer3DModel", kImage, kDiffusion},  // Wan, CogVideoX, HunyuanVideo, LTX, Mochi
    Entry{"PriorTransformer", kImage, kDiffusion},
    Entry{"DiT", kImage, kDiffusion},
    Entry{"PixArt", kImage, kDiffusion},
    Entry{"SD3", kImage, kDiffusion},
    Entry{"Flux", kImage, kDiffusion},
    Entry{"Wan", kImage, kDiffusion},
    Entry{"Sana", kImage, kDiffusion},
    Entry{"Lumina", kImage, kDiffusion},
    Entry{"UVit", kImage, kDiffusion},
    Entry{"UViT", kImage, kDiffusion},
    Entry{"Hunyuan", kImage, kDiffusion},
    Entry{"CogVideo", kImage, kDiffusion},
    Entry{"CogView", kImage, kDiffusion},
    Entry{"Kandinsky", kImage, kOther},
    Entry{"StableDiffusion", kImage, kOther},
    Entry{"LatentDiffusion", kImage, kOther},
    Entry{"DDIM", kImage, kOther},
    Entry{"Image", kImage, kOther},
    Entry{"Video", kImage, kOther},
};

// Beginnings of model types, compared in lower case.
constexpr std::array kModelTypes = {
    Entry{"stable_audio", kAudio, kSound},
    Entry{"stable-audio", kAudio, kSound},
    Entry{"audioldm", kAudio, kSound},
    Entry{"audio", kAudio, kSound},
    Entry{"music", kAudio, kSound},
    Entry{"wavegrad", kAudio, kSound},
    Entry{"diffwave", kAudio, kSound},
    Entry{"diffucoder", kCode, kLanguage},
    Entry{"codegen", kCode, kLanguage},
    Entry{"codellama", kCode, kLanguage},
    Entry{"starcoder", kCode, kLanguage},
    Entry{"llada", kText, kLanguage},
    Entry{"dream", kText, kLanguage},
    Entry{"mdlm", kText, kLanguage},
    Entry{"sedd", kText, kLanguage},
    Entry{"bd3lm", kText, kLanguage},
    Entry{"bert", kText, kLanguage},
    Entry{"modernbert", kText, kLanguage},
    Entry{"roberta", kText, kLanguage},
    Entry{"distilbert", kText, kLanguage},
    Entry{"gpt", kText, kLanguage},
    Entry{"llama", kText, kLanguage},
    Entry{"mistral", kText, kLanguage},
    Entry{"mixtral", kText, kLanguage},
    Entry{"qwen", kText, kLanguage},
    Entry{"t5", kText, kLanguage},
    Entry{"dit", kImage, kDiffusion},
    Entry{"pixart", kImage, kDiffusion},
    Entry{"sd3", kImage, kDiffusion},
    Entry{"flux", kImage, kDiffusion},
    Entry{"wan", kImage, kDiffusion},
    Entry{"unet", kImage, kUNet},
    Entry{"ddpm", kImage, kUNet},
    Entry{"stable-diffusion", kImage, kOther},
    Entry{"stable_diffusion", kImage, kOther},
};

// Layer names that tell the family where the class does not.
struct NamePart {
  std::string_view text;
  ModelFamily family;
};
constexpr std::array kNameParts = {
    NamePart{"down_blocks.", kUNet},          NamePart{"input_blocks.", kUNet},
    NamePart{"embed_tokens.", kLanguage},     NamePart{"tok_embeddings.", kLanguage},
    NamePart{"word_embeddings.", kLanguage},  NamePart{"transformer.wte.", kLanguage},
    NamePart{"vocab_embed.", kLanguage},      NamePart{"transformer_blocks.", kDiffusion},
    NamePart{"x_embedder.", kDiffusion},      NamePart{"double_blocks.", kDiffusion},
    NamePart{"patch_embedding.", kDiffusion},
};

ModelFamily FamilyFromNames(std::span<const TensorInfo> tensors) {
  for (const NamePart& part : kNameParts) {
    const bool found = std::any_of(tensors.begin(), tensors.end(), [&](const TensorInfo& info) {
      return info.name.find(part.text) != std::string::npos;
    });
    if (found) return part.family;
  }
  return ModelFamily::kUnknown;
}

std::optional<std::int64_t> PositiveAt(const nlohmann::json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_number_unsigned() || found->get<std::uint64_t>() > 1'000'000'000) return {};
  const auto value = found->get<std::int64_t>();
  return value > 0 ? std::optional(value) : std::nullopt;
}

}  // namespace

std::string_view ModelFamilyName(ModelFamily family) {
  constexpr std::array<std::string_view, 5> kNames = {"unknown", "diffusion_transformer", "unet", "language_model",
                                                      "audio"};
  return kNames[static_cast<std::size_t>(family)];
}

std::optional<ArchitectureKind> LookUpClass(std::string_view class_name) {
  for (const Entry& entry : kClassParts) {
    if (class_name.find(entry.text) != std::string_view::npos) return ArchitectureKind{entry.modality, entry.family};
  }
  return std::nullopt;
}

std::optional<ArchitectureKind> LookUpModelType(std::string_view model_type) {
  std::string lower(model_type);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const Entry& entry : kModelTypes) {
    if (lower.starts_with(entry.text)) return ArchitectureKind{entry.modality, entry.family};
  }
  return std::nullopt;
}

Architecture ReadArchitecture(std::string_view config_json, std::span<const TensorInfo> tensors,
                              const std::string& file) {
  Architecture architecture;
  if (!config_json.empty()) {
    const nlohmann::json config = ParseJson(config_json, file, kPythonJson);
    if (config.is_object()) {
      architecture.class_name = StringAt(config, "_class_name");
      const auto classes = config.find("architectures");
      const bool listed = classes != config.end() && classes->is_array() && !classes->empty();
      if (architecture.class_name.empty() && listed && classes->front().is_string()) {
        architecture.class_name = classes->front().get<std::string>();
      }
      architecture.model_type = StringAt(config, "model_type");
      architecture.in_channels = PositiveAt(config, "in_channels");
      architecture.out_channels = PositiveAt(config, "out_channels");
    }
  }
  std::optional<ArchitectureKind> kind = LookUpClass(architecture.class_name);
  if (!kind) kind = LookUpModelType(architecture.model_type);
  if (kind) architecture.family = kind->family;
  if (architecture.family == ModelFamily::kUnknown) architecture.family = FamilyFromNames(tensors);
  return architecture;
}

}  // namespace arrow_quant
