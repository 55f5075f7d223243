#include "arrow_quant/orchestrate/diffusion_orchestrator.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/parquet/model_reader.h"
#include "arrow_quant/io/safetensors/test_files.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;
using testing::SafetensorsOf;
using testing::TempDirectory;

// Two layers of 16 x 32 and a bias, which is kept.
fs::path WriteModel(const TempDirectory& directory) {
  return directory.Write("model.safetensors", SafetensorsOf({{.name = "blocks.0.attn.weight", .shape = {16, 32}},
                                                             {.name = "blocks.1.attn.weight", .shape = {16, 32}},
                                                             {.name = "blocks.1.attn.bias", .shape = {16}}}));
}

DiffusionQuantConfig Config() {
  DiffusionQuantConfig config = DiffusionQuantConfig::FromProfile("local");
  config.modality = "image";
  config.group_size = 16;
  return config;
}

ErrorCode CodeOf(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "no error";
  return ErrorCode::kIo;
}

TEST(DiffusionOrchestrator, WritesAModelThatLoads) {
  const TempDirectory directory;
  const DiffusionOrchestrator orchestrator(Config());
  const ModelResult result = orchestrator.QuantizeModel(WriteModel(directory), directory / "out");
  EXPECT_EQ(result.layers_quantized(), 2);
  EXPECT_EQ(result.modality, "image");
  const ParquetModel model = ParquetModel::Open(directory / "out");
  EXPECT_EQ(model.Load("blocks.0.attn.weight").record.bits, 4);
  EXPECT_EQ(model.Load("blocks.1.attn.bias").record.bits, 0);
}

TEST(DiffusionOrchestrator, ResultHasTheFiguresOfTheDictionary) {
  const TempDirectory directory;
  const ModelResult result = DiffusionOrchestrator(Config()).QuantizeModel(WriteModel(directory), directory / "out");
  const nlohmann::json json = nlohmann::json::parse(ToJson(result));
  EXPECT_EQ(json["method"], result.method());
  EXPECT_EQ(json["compression_ratio"], result.compression_ratio());
  EXPECT_EQ(json["bits_per_weight"], result.bits_per_weight());
  EXPECT_EQ(json["model_size_mb"], result.model_size_mb());
  EXPECT_EQ(json["source_size_mb"], result.source_size_mb());
  EXPECT_EQ(json["layers_fallen_back"], result.layers_fallen_back());
  EXPECT_EQ(result.source_bytes, (2 * 16 * 32 + 16) * 4);
  EXPECT_DOUBLE_EQ(result.source_size_mb(), 0.00416);
  EXPECT_DOUBLE_EQ(result.bits_per_weight(), 8.0 * static_cast<double>(result.parquet_bytes) / 1040);
}

TEST(DiffusionOrchestrator, FallbackRateCountsKeptLayers) {
  ModelResult result;
  result.tensors.resize(4);
  for (std::size_t i = 0; i < 3; ++i) {
    result.tensors[i].quantized = true;
    result.tensors[i].method = "min_max";
  }
  EXPECT_EQ(result.fallback_rate(), (std::map<std::string, double>{{"min_max", 0.0}}));
  result.tensors[0].fallbacks = {{.layer = "a", .from_method = "ldlq"},
                                 {.layer = "a", .from_method = "ldlq"}};     // two steps of one layer
  result.tensors[3].fallbacks = {{.layer = "d", .from_method = "min_max"}};  // kept in the end
  EXPECT_EQ(result.layers_fallen_back(), 2);
  EXPECT_EQ(result.fallback_rate(), (std::map<std::string, double>{{"ldlq", 1.0}, {"min_max", 0.25}}));
  EXPECT_EQ(result.method(), "min_max");
}

TEST(DiffusionOrchestrator, PlansWithoutWriting) {
  const TempDirectory directory;
  const fs::path model = WriteModel(directory);
  const ModelResult plan = DiffusionOrchestrator(Config()).PlanModel(model);
  EXPECT_EQ(plan.layers_quantized(), 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(directory.path()), fs::directory_iterator()), 1);
}

TEST(DiffusionOrchestrator, AsksForTheModalityOfDiffusionModelsOnly) {
  const TempDirectory directory;
  const fs::path model = WriteModel(directory);
  DiffusionQuantConfig config = Config();
  config.modality.reset();
  EXPECT_EQ(CodeOf([&] { DiffusionOrchestrator(config).PlanModel(model); }), ErrorCode::kMetadata);
  EXPECT_EQ(DiffusionOrchestrator(config, {.diffusion = false}).PlanModel(model).layers_quantized(), 2);
}

TEST(DiffusionOrchestrator, OverwritesOnRequestOnly) {
  const TempDirectory directory;
  const fs::path model = WriteModel(directory);
  const fs::path output = directory / "out";
  DiffusionOrchestrator(Config()).QuantizeModel(model, output);
  EXPECT_EQ(CodeOf([&] { DiffusionOrchestrator(Config()).QuantizeModel(model, output); }), ErrorCode::kInvalidArgument);
  EXPECT_NO_THROW(DiffusionOrchestrator(Config(), {.overwrite = true}).QuantizeModel(model, output));
}

TEST(DiffusionOrchestrator, RefusesABadConfigurationAtOnce) {
  DiffusionQuantConfig config = Config();
  config.bit_width = 5;
  EXPECT_EQ(CodeOf([&] { DiffusionOrchestrator{config}; }), ErrorCode::kConfiguration);
  config = Config();
  config.keep_patterns = {"attn("};
  EXPECT_EQ(CodeOf([&] { DiffusionOrchestrator{config}; }), ErrorCode::kConfiguration);
}

TEST(DiffusionOrchestrator, StopsOnRequestAndLeavesNothing) {
  const TempDirectory directory;
  const fs::path model = WriteModel(directory);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(
      CodeOf([&] { DiffusionOrchestrator(Config()).QuantizeModel(model, directory / "out", {}, stop.get_token()); }),
      ErrorCode::kCancelled);
  EXPECT_EQ(std::distance(fs::directory_iterator(directory.path()), fs::directory_iterator()), 1);
}

TEST(DiffusionOrchestrator, ReportsProgress) {
  const TempDirectory directory;
  double last = 0;
  DiffusionOrchestrator(Config()).QuantizeModel(WriteModel(directory), directory / "out",
                                                [&](const std::string&, double fraction) { last = fraction; });
  EXPECT_EQ(last, 1.0);
}

}  // namespace
}  // namespace arrow_quant
