#include "arrow_quant/model/source.h"

#include <gtest/gtest.h>

#include <functional>

#include "arrow_quant/io/safetensors/test_files.h"

namespace arrow_quant {
namespace {

using testing::IndexOf;
using testing::SafetensorsNamed;
using testing::TempDirectory;
using Names = std::vector<std::string>;

void ExpectError(ErrorCode code, const Names& parts, const std::function<void()>& resolve) {
  try {
    resolve();
  } catch (const Error& error) {
    EXPECT_EQ(ErrorCodeName(error.code()), ErrorCodeName(code)) << error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " is not in: " << error.what();
    }
    return;
  }
  ADD_FAILURE() << "no error";
}

Names ComponentNames(const ModelSource& source) {
  Names names;
  for (const SourceComponent& component : source.components) names.push_back(component.name);
  return names;
}

// The reason why `path` is skipped; "" when it is not.
std::string SkipReason(const ModelSource& source, const std::string& path) {
  for (const SkippedFile& file : source.skipped_files) {
    if (file.path == path) return file.reason;
  }
  return {};
}

constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";

// A pipeline with two denoisers.
void WritePipeline(const TempDirectory& dir) {
  dir.Write("model_index.json", R"({"_class_name": "WanPipeline", "_diffusers_version": "0.42",
    "transformer": ["diffusers", "WanTransformer3DModel"], "transformer_2": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"], "text_encoder": ["transformers", "UMT5EncoderModel"],
    "scheduler": ["diffusers", "UniPCMultistepScheduler"], "feature_extractor": [null, null], "flag": true})");
  for (const std::string name : {"transformer", "transformer_2", "vae"}) {
    dir.Write(name + "/config.json", R"({"_class_name": "WanTransformer3DModel"})");
    dir.Write(name + "/" + kWeights, SafetensorsNamed({name + ".weight"}));
  }
  dir.Write("text_encoder/config.json", "{}");
  dir.Write("text_encoder/model.safetensors", SafetensorsNamed({"t"}));
  dir.Write("text_encoder/pytorch_model.bin", "pickle");
  dir.Write("scheduler/scheduler_config.json", "{}");
  dir.Write("tokenizer/größe 1.json", "{}");
}

TEST(ResolveModel, AComponentDirectory) {
  const TempDirectory dir;
  dir.Write("config.json", R"({"_class_name": "DiTTransformer2DModel"})");
  dir.Write("metadata.json", R"({"modality": "image"})");
  dir.Write(kWeights, SafetensorsNamed({"a"}));
  dir.Write("scheduler/scheduler_config.json", "{}");
  dir.Write("diffusion_pytorch_model.bin", "pickle");
  dir.Write("calibration.jsonl", "{}");
  dir.Write(".gitattributes", "");
  const ModelSource source = ResolveModel(dir.path());
  EXPECT_EQ(source.kind, SourceKind::kModel);
  EXPECT_EQ(source.root, dir.path());
  ASSERT_EQ(source.components.size(), 1U);
  EXPECT_EQ(source.components[0].name, "");
  EXPECT_EQ(source.components[0].class_name, "DiTTransformer2DModel");
  EXPECT_EQ(source.other_files, (Names{"config.json", "metadata.json", "scheduler/scheduler_config.json"}));
  EXPECT_NE(SkipReason(source, "diffusion_pytorch_model.bin").find("pickle"), std::string::npos);
  EXPECT_EQ(SkipReason(source, "calibration.jsonl"), "calibration data");
  EXPECT_EQ(SkipReason(source, ".gitattributes"), "hidden");
  EXPECT_EQ(DetectModality(source).modality, Modality::kImage);
  EXPECT_EQ(DetectModality(source, Modality::kAudio).modality, Modality::kAudio);
}

TEST(ResolveModel, ATransformersDirectoryWithShards) {
  const TempDirectory dir;
  dir.Write("config.json", R"({"architectures": ["LLaDAModelLM"], "model_type": "llada"})");
  dir.Write("model-00001-of-00001.safetensors", SafetensorsNamed({"a"}));
  const auto index = dir.Write("model.safetensors.index.json", IndexOf({{"a", "model-00001-of-00001.safetensors"}}));
  dir.Write("consolidated.safetensors", SafetensorsNamed({"b"}));
  dir.Write("tokenizer.json", "{}");
  for (const auto& path : {dir.path(), index}) {
    const ModelSource source = ResolveModel(path);
    EXPECT_EQ(source.kind, SourceKind::kModel);
    EXPECT_EQ(source.components.at(0).class_name, "LLaDAModelLM");
    EXPECT_EQ(source.components.at(0).checkpoint.tensors().size(), 1U);
    EXPECT_EQ(source.other_files, (Names{"config.json", "tokenizer.json"}));
    EXPECT_NE(SkipReason(source, "consolidated.safetensors").find("not chosen"), std::string::npos);
    EXPECT_EQ(DetectModality(source).modality, Modality::kText);
  }
}

TEST(ResolveModel, ALoneFileTakesNothingFromItsNeighbours) {
  const TempDirectory dir;
  const auto path = dir.Write("flux 1ä.safetensors", SafetensorsNamed({"double_blocks.0.img_mod.lin.weight"}));
  dir.Write("holiday.jpg", "x");
  dir.Write("other.safetensors", SafetensorsNamed({"b"}));
  const ModelSource source = ResolveModel(path);
  EXPECT_EQ(source.kind, SourceKind::kFile);
  EXPECT_EQ(source.root, dir.path());
  EXPECT_TRUE(source.other_files.empty());
  EXPECT_TRUE(source.skipped_files.empty());
  EXPECT_EQ(DetectModality(source).modality, Modality::kImage);
}

TEST(ResolveModel, APipelineQuantizesItsDenoisersAndCopiesTheRest) {
  const TempDirectory dir;
  WritePipeline(dir);
  for (const auto& path : {dir.path(), dir / "model_index.json"}) {
    const ModelSource source = ResolveModel(path);
    EXPECT_EQ(source.kind, SourceKind::kPipeline);
    EXPECT_EQ(ComponentNames(source), (Names{"transformer", "transformer_2"}));
    EXPECT_EQ(source.components[1].directory, "transformer_2");
    EXPECT_EQ(source.other_files,
              (Names{"model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
                     "text_encoder/model.safetensors", "tokenizer/größe 1.json", "transformer/config.json",
                     "transformer_2/config.json", "vae/config.json", std::string("vae/") + kWeights}));
    EXPECT_NE(SkipReason(source, "text_encoder/pytorch_model.bin").find("pickle"), std::string::npos);
  }
}

TEST(ResolveModel, ComponentsChoose) {
  const TempDirectory dir;
  WritePipeline(dir);
  const ModelSource source = ResolveModel(dir.path(), {.components = {"vae", "transformer", "vae"}});
  EXPECT_EQ(ComponentNames(source), (Names{"vae", "transformer"}));
  EXPECT_NE(std::find(source.other_files.begin(), source.other_files.end(), std::string("transformer_2/") + kWeights),
            source.other_files.end());
  ExpectError(ErrorCode::kConfiguration, {"'unet'", "transformer_2", "vae"},
              [&] { ResolveModel(dir.path(), {.components = {"unet"}}); });
  ExpectError(ErrorCode::kConfiguration, {"pipeline"}, [&] { ResolveModel(dir / "vae", {.components = {"unet"}}); });
}

TEST(ResolveModel, TheVariantOfAPipelineChoosesAndTheOtherIsListed) {
  const TempDirectory dir;
  WritePipeline(dir);
  for (const std::string name : {"transformer", "transformer_2"}) {
    dir.Write(name + "/diffusion_pytorch_model.fp16.safetensors", SafetensorsNamed({"half"}));
  }
  ExpectError(ErrorCode::kInvalidArgument, {"fp16"}, [&] { ResolveModel(dir.path()); });
  const ModelSource source = ResolveModel(dir.path(), {.variant = "fp16"});
  EXPECT_NE(source.components[0].checkpoint.Find("half"), nullptr);
  EXPECT_NE(SkipReason(source, std::string("transformer/") + kWeights).find("not chosen"), std::string::npos);
}

TEST(ResolveModel, AComponentThatIsMissingIsNamed) {
  const TempDirectory dir;
  WritePipeline(dir);
  std::filesystem::remove_all(dir / "transformer_2");
  ExpectError(ErrorCode::kModelNotFound, {"transformer_2"}, [&] { ResolveModel(dir.path()); });
}

TEST(ResolveModel, HostilePipelinesAreRefused) {
  for (const char* json : {"", "{", "[]", "\"x\"", R"({"../up": ["diffusers", "UNet2DModel"]})",
                           R"({"a/b": ["diffusers", "UNet2DModel"]})"}) {
    const TempDirectory dir;
    dir.Write("model_index.json", json);
    ExpectError(ErrorCode::kCorruptFile, {"model_index.json"}, [&] { ResolveModel(dir.path()); });
  }
  const TempDirectory dir;
  dir.Write("model_index.json", R"({"vae": ["diffusers", "AutoencoderKL"], "unet": 3})");
  ExpectError(ErrorCode::kUnsupported, {"denoiser", "vae"}, [&] { ResolveModel(dir.path()); });
}

TEST(ResolveModel, ParquetDirectoriesAreLeftToTheParquetReader) {
  const TempDirectory dir;
  dir.Write("weights.parquet", "PAR1");
  dir.Write("calibration.parquet", "PAR1");
  dir.Write("config.json", "{}");
  for (const auto& path : {dir.path(), dir / "weights.parquet"}) {
    const ModelSource source = ResolveModel(path);
    EXPECT_EQ(source.kind, SourceKind::kParquet);
    EXPECT_TRUE(source.components.empty());
    EXPECT_EQ(source.other_files, Names{"config.json"});
    EXPECT_EQ(source.skipped_files.size(), 1U);
  }
}

TEST(ResolveModel, APipelineOfParquetIsParquet) {
  const TempDirectory dir;
  WritePipeline(dir);
  std::filesystem::remove(dir / std::string("transformer/") += kWeights);
  dir.Write("transformer/model.parquet", "PAR1");
  const ModelSource source = ResolveModel(dir.path());
  EXPECT_EQ(source.kind, SourceKind::kParquet);
  EXPECT_FALSE(source.pipeline_json.empty());
}

TEST(ResolveModel, WhatIsNotThereIsNamed) {
  const TempDirectory dir;
  ExpectError(ErrorCode::kModelNotFound, {"gone"}, [&] { ResolveModel(dir / "gone"); });
  std::filesystem::create_symlink("/nowhere/blob", dir / "link");
  ExpectError(ErrorCode::kModelNotFound, {"/nowhere/blob"}, [&] { ResolveModel(dir / "link"); });
  dir.Write("unet/model.safetensors", SafetensorsNamed({"a"}));
  ExpectError(ErrorCode::kModelNotFound, {"unet"}, [&] { ResolveModel(dir.path()); });
}

TEST(ResolveModel, QuantizedModelsAreRefusedByName) {
  const TempDirectory dir;
  dir.Write("model.safetensors", SafetensorsNamed({"a.qweight", "a.scales"}));
  ExpectError(ErrorCode::kUnsupported, {"GPTQ", "a.qweight"}, [&] { ResolveModel(dir.path()); });
  dir.Write("model.safetensors", SafetensorsNamed({"a.weight"}));
  dir.Write("config.json", R"({"quantization_config": {"quant_method": "bitsandbytes"}})");
  ExpectError(ErrorCode::kUnsupported, {"bitsandbytes"}, [&] { ResolveModel(dir.path()); });
}

TEST(ResolveModel, EightBitFloatsComeWithTheirScales) {
  const TempDirectory dir;
  dir.Write("model.safetensors",
            testing::SafetensorsOf({{.name = "a.weight", .dtype = "F8_E4M3", .shape = {4, 4}, .bytes_per_element = 1},
                                    {.name = "a.weight_scale", .shape = {}}}));
  EXPECT_EQ(ResolveModel(dir.path()).components[0].scale_for.at("a.weight"), "a.weight_scale");
}

TEST(ResolveModel, LinkedDirectoriesAreFollowedAndLoopsAreNot) {
  const TempDirectory dir;
  dir.Write("blobs/0", SafetensorsNamed({"a"}));
  dir.Write("blobs/1", "{}");
  std::filesystem::create_directories(dir / "snap/tokenizer");
  std::filesystem::create_symlink("../blobs/0", dir / "snap/model.safetensors");
  std::filesystem::create_symlink("../../blobs/1", dir / "snap/tokenizer/vocab.json");
  std::filesystem::create_symlink("..", dir / "snap/loop");
  std::filesystem::create_symlink("gone", dir / "snap/dangling.json");
  const ModelSource source = ResolveModel(dir / "snap");
  EXPECT_NE(std::find(source.other_files.begin(), source.other_files.end(), "tokenizer/vocab.json"),
            source.other_files.end());
  EXPECT_NE(SkipReason(source, "dangling.json").find("dangling"), std::string::npos);
  EXPECT_NE(SkipReason(source, "loop/snap").find("loop"), std::string::npos);
}

TEST(ResolveModel, ConfigurationsOfPythonAreRead) {
  const TempDirectory dir;
  dir.Write("model.safetensors", SafetensorsNamed({"a.weight"}));
  dir.Write("config.json", R"({"model_type": "llada", "limit": Infinity, "x": 1, "x": 2})");
  EXPECT_EQ(DetectModality(ResolveModel(dir.path())).modality, Modality::kText);
  dir.Write("config.json", "{");
  ExpectError(ErrorCode::kCorruptFile, {"config.json"}, [&] { ResolveModel(dir.path()); });
}

}  // namespace
}  // namespace arrow_quant
