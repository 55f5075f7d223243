#include "arrow_quant/model/modality.h"

#include <gtest/gtest.h>

#include "arrow_quant/base/error.h"
#include "arrow_quant/model/architecture.h"

namespace arrow_quant {
namespace {

std::vector<TensorInfo> Tensors(const std::vector<std::string>& names) {
  std::vector<TensorInfo> tensors;
  for (const std::string& name : names) tensors.push_back({.name = name, .shape = {4, 4}, .num_elements = 16});
  return tensors;
}

ErrorCode CodeOf(const ModalityEvidence& evidence, std::string* message = nullptr) {
  try {
    DetectModality(evidence);
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code();
  }
  ADD_FAILURE() << "no error";
  return ErrorCode::kCancelled;
}

TEST(Modality, NamesAreExact) {
  EXPECT_EQ(ModalityFromName("audio"), Modality::kAudio);
  for (const char* name : {"Audio", " audio", "video", ""}) EXPECT_FALSE(ModalityFromName(name)) << name;
  EXPECT_EQ(ModalityName(Modality::kCode), "code");
}

TEST(Modality, TheFirstEvidenceCounts) {
  const auto tensors = Tensors({"model.layers.0.self_attn.q_proj.weight"});
  ModalityEvidence evidence;
  evidence.tensors = tensors;
  EXPECT_EQ(DetectModality(evidence).modality, Modality::kText);
  evidence.config_json = R"({"_class_name": "UNet2DConditionModel"})";
  EXPECT_EQ(DetectModality(evidence).modality, Modality::kImage);
  evidence.pipeline_json = R"({"_class_name": "AudioLDMPipeline"})";
  EXPECT_EQ(DetectModality(evidence).modality, Modality::kAudio);
  evidence.safetensors_metadata = {{"modality", "code"}};
  EXPECT_EQ(DetectModality(evidence).modality, Modality::kCode);
  evidence.metadata_json = R"({"modality": "text", "other": 1})";
  EXPECT_EQ(DetectModality(evidence).modality, Modality::kText);
  evidence.configured = Modality::kAudio;
  const ModalityDecision decision = DetectModality(evidence);
  EXPECT_EQ(decision.modality, Modality::kAudio);
  EXPECT_NE(decision.reason.find("configuration"), std::string::npos);
}

TEST(Modality, MetadataFileWithoutModalityIsPassedOver) {
  ModalityEvidence evidence;
  evidence.config_json = R"({"model_type": "llada"})";
  for (const char* text : {"{}", R"({"modality": null})", R"({"nested": {"modality": "image"}})"}) {
    evidence.metadata_json = text;
    EXPECT_EQ(DetectModality(evidence).modality, Modality::kText) << text;
  }
}

TEST(Modality, AWrongValueIsNamed) {
  for (const char* value : {"Image", "video", " image", "TEXT", ""}) {
    ModalityEvidence evidence;
    evidence.metadata_json = std::string(R"({"modality": ")") + value + "\"}";
    std::string message;
    EXPECT_EQ(CodeOf(evidence, &message), ErrorCode::kMetadata);
    EXPECT_NE(message.find("'" + std::string(value) + "'"), std::string::npos) << message;
    ModalityEvidence header;
    header.safetensors_metadata = {{"modality", value}};
    EXPECT_EQ(CodeOf(header), ErrorCode::kMetadata);
  }
  ModalityEvidence number;
  number.metadata_json = R"({"modality": 3})";
  EXPECT_EQ(CodeOf(number), ErrorCode::kMetadata);
}

TEST(Modality, MalformedMetadataIsAnError) {
  for (const char* text : {"{", "\xFF", R"({"modality": "image")"}) {
    ModalityEvidence evidence;
    evidence.metadata_json = text;
    EXPECT_EQ(CodeOf(evidence), ErrorCode::kCorruptFile) << text;
  }
  ModalityEvidence array;
  array.metadata_json = "[]";
  EXPECT_EQ(CodeOf(array), ErrorCode::kMetadata);
}

TEST(Modality, UnknownNamesTheOption) {
  const auto tensors = Tensors({"a.weight", "b.weight"});
  ModalityEvidence evidence;
  evidence.tensors = tensors;
  std::string message;
  EXPECT_EQ(CodeOf(evidence, &message), ErrorCode::kMetadata);
  EXPECT_NE(message.find("option modality"), std::string::npos);
}

TEST(Modality, ATieBetweenNamesIsUnknown) {
  const auto tensors = Tensors({"lm_head.weight", "conv_in.weight"});
  ModalityEvidence evidence;
  evidence.tensors = tensors;
  EXPECT_EQ(CodeOf(evidence), ErrorCode::kMetadata);
}

TEST(Modality, ArchitecturesInTheHeaderAreRead) {
  const std::vector<std::pair<std::string, Modality>> cases = {{"mdlm-diffusion", Modality::kText},
                                                               {"DiT-image", Modality::kImage},
                                                               {"wavegrad-diffusion", Modality::kAudio},
                                                               {"code-diffusion", Modality::kCode},
                                                               {"stable-diffusion-xl-v1-base", Modality::kImage},
                                                               {"Flux.1-dev", Modality::kImage}};
  for (const auto& [architecture, modality] : cases) {
    ModalityEvidence evidence;
    evidence.safetensors_metadata = {{"modelspec.architecture", architecture}};
    EXPECT_EQ(DetectModality(evidence).modality, modality) << architecture;
  }
}

TEST(Architecture, ClassesAreKnown) {
  const std::vector<std::tuple<std::string, Modality, ModelFamily>> cases = {
      {"UNet2DConditionModel", Modality::kImage, ModelFamily::kUNet},
      {"UNet2DModel", Modality::kImage, ModelFamily::kUNet},
      {"DiTTransformer2DModel", Modality::kImage, ModelFamily::kDiffusionTransformer},
      {"PixArtTransformer2DModel", Modality::kImage, ModelFamily::kDiffusionTransformer},
      {"SD3Transformer2DModel", Modality::kImage, ModelFamily::kDiffusionTransformer},
      {"FluxTransformer2DModel", Modality::kImage, ModelFamily::kDiffusionTransformer},
      {"WanTransformer3DModel", Modality::kImage, ModelFamily::kDiffusionTransformer},
      {"StableAudioDiTModel", Modality::kAudio, ModelFamily::kAudio},
      {"AudioLDM2UNet2DConditionModel", Modality::kAudio, ModelFamily::kAudio},
      {"UNet1DModel", Modality::kAudio, ModelFamily::kAudio},
      {"LLaDAModelLM", Modality::kText, ModelFamily::kLanguageModel},
      {"DreamModel", Modality::kText, ModelFamily::kLanguageModel},
      {"MDLM", Modality::kText, ModelFamily::kLanguageModel},
      {"BertForMaskedLM", Modality::kText, ModelFamily::kLanguageModel},
      {"ModernBertForMaskedLM", Modality::kText, ModelFamily::kLanguageModel},
      {"T5ForConditionalGeneration", Modality::kText, ModelFamily::kLanguageModel},
  };
  for (const auto& [name, modality, family] : cases) {
    const auto kind = LookUpClass(name);
    ASSERT_TRUE(kind) << name;
    EXPECT_EQ(ModalityName(kind->modality), ModalityName(modality)) << name;
    EXPECT_EQ(ModelFamilyName(kind->family), ModelFamilyName(family)) << name;
  }
  EXPECT_FALSE(LookUpClass("Something"));
  EXPECT_FALSE(LookUpClass(""));
}

TEST(Architecture, IsReadFromPythonsJson) {
  const Architecture architecture = ReadArchitecture(
      R"({"architectures": ["BertForMaskedLM"], "limit": [0.0, Infinity, NaN], "note": "NaN \" Größe", "in_channels": 4})");
  EXPECT_EQ(architecture.class_name, "BertForMaskedLM");
  EXPECT_EQ(architecture.family, ModelFamily::kLanguageModel);
  EXPECT_EQ(architecture.in_channels, 4);
  EXPECT_FALSE(architecture.out_channels);
  EXPECT_THROW(ReadArchitecture("{"), Error);
}

TEST(Architecture, NamesTellTheFamilyWhereTheClassDoesNot) {
  EXPECT_EQ(ReadArchitecture("", Tensors({"down_blocks.0.x.weight"})).family, ModelFamily::kUNet);
  EXPECT_EQ(ReadArchitecture("", Tensors({"x.weight"})).family, ModelFamily::kUnknown);
}

}  // namespace
}  // namespace arrow_quant
