#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "arrow_quant/io/tensor_info.h"
#include "arrow_quant/model/modality.h"

namespace arrow_quant {

// Architectures whose layers play the same roles under the same names.
enum class ModelFamily { kUnknown, kDiffusionTransformer, kUNet, kLanguageModel, kAudio };

// "unknown", "diffusion_transformer", "unet", "language_model", "audio".
std::string_view ModelFamilyName(ModelFamily family);

// What a class name or model type tells.
struct ArchitectureKind {
  Modality modality = Modality::kText;
  ModelFamily family = ModelFamily::kUnknown;
};

// Looks up a class name as in `_class_name` or `architectures` ("FluxTransformer2DModel"). Nothing when unknown.
std::optional<ArchitectureKind> LookUpClass(std::string_view class_name);

// Looks up a `model_type` of transformers or the like ("llada", "dit"), any case. Nothing when unknown.
std::optional<ArchitectureKind> LookUpModelType(std::string_view model_type);

// What config.json tells about a model's layers.
struct Architecture {
  std::string class_name = {};  // _class_name, else the first of architectures, else ""
  std::string model_type = {};
  ModelFamily family = ModelFamily::kUnknown;
  std::optional<std::int64_t> in_channels = {};
  std::optional<std::int64_t> out_channels = {};
};

// Reads config.json's text ("" for none); `file` is for messages. When the class tells no family, the tensors' names
// do. Throws kCorruptFile for malformed JSON.
Architecture ReadArchitecture(std::string_view config_json, std::span<const TensorInfo> tensors = {},
                              const std::string& file = "config.json");

}  // namespace arrow_quant
