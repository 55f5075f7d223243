#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "arrow_quant/io/tensor_info.h"

namespace arrow_quant {

enum class Modality { kText, kCode, kImage, kAudio };

// "text", "code", "image", "audio".
std::string_view ModalityName(Modality modality);

// Inverse of ModalityName: exact, lower case. Nothing for anything else.
std::optional<Modality> ModalityFromName(std::string_view name);

struct ModalityDecision {
  Modality modality = Modality::kText;
  std::string reason;  // for the report, for example "config.json: _class_name DiTTransformer2DModel"
};

// Where a modality may be told, in the order in which it is asked. Empty texts are not there.
struct ModalityEvidence {
  std::optional<Modality> configured = {};                       // the user's option
  std::string metadata_json = {};                                // metadata.json beside the model
  std::map<std::string, std::string> safetensors_metadata = {};  // __metadata__
  std::string pipeline_json = {};                                // model_index.json
  std::string config_json = {};                                  // config.json
  std::span<const TensorInfo> tensors = {};
  std::string model_path = {};  // for messages
};

// Throws kMetadata naming the option `modality` when nothing tells, and naming the value when metadata.json or
// __metadata__ give a modality that is none of the four; kCorruptFile for malformed JSON.
ModalityDecision DetectModality(const ModalityEvidence& evidence);

}  // namespace arrow_quant
