#include "arrow_quant/orchestrate/mixed_precision.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stop_token>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/safetensors/test_files.h"
#include "arrow_quant/orchestrate/diffusion_orchestrator.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;
using testing::SafetensorsOf;
using testing::TempDirectory;

// Of 64 x 64, 32 x 64 and 64 values that look random.
fs::path WriteModel(const TempDirectory& directory) {
  std::string file = SafetensorsOf({{.name = "blocks.0.attn.weight", .shape = {64, 64}},
                                    {.name = "blocks.1.attn.weight", .shape = {32, 64}},
                                    {.name = "blocks.1.attn.bias", .shape = {64}}});
  constexpr std::size_t kValues = 64 * 64 + 32 * 64 + 64;
  for (std::size_t i = 0; i < kValues; ++i) {
    const float value = std::sin(1.7F * static_cast<float>(i * i % 9973));
    std::memcpy(file.data() + file.size() - (kValues - i) * sizeof value, &value, sizeof value);
  }
  return directory.Write("model.safetensors", file);
}

DiffusionQuantConfig Config(double size_mb) {
  DiffusionQuantConfig config = DiffusionQuantConfig::FromProfile("local");
  config.modality = "image";
  config.group_size = 16;
  config.min_accuracy = 0;
  config.enable_mixed_precision = true;
  config.target_size_mb = size_mb;
  return config;
}

std::string Content(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// Runs until every layer is measured, then stops.
void StopAfterMeasuring(const DiffusionQuantConfig& config, const fs::path& model, const fs::path& output) {
  std::stop_source stop;
  try {
    DiffusionOrchestrator(config).QuantizeModel(
        model, output,
        [&](const std::string&, double fraction) {
          if (fraction >= 0.8) stop.request_stop();
        },
        stop.get_token());
    FAIL() << "did not stop";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
}

class MixedPrecision : public ::testing::Test {
 protected:
  fs::path Figures() const { return directory_ / ".out.partial" / "progress" / "widths.figures"; }

  TempDirectory directory_;
  fs::path model_ = WriteModel(directory_);
};

TEST_F(MixedPrecision, ContinuesWithWhatWasMeasured) {
  const ModelResult whole = DiffusionOrchestrator(Config(0.019)).QuantizeModel(model_, directory_ / "whole");
  StopAfterMeasuring(Config(0.019), model_, directory_ / "out");
  const std::string figures = Content(Figures());
  EXPECT_EQ(std::count(figures.begin(), figures.end(), '\n'), 2);
  // Killed while the second line was written, and the first is another than would be measured.
  std::string first = figures.substr(0, figures.find('\n') + 1);
  ASSERT_NE(first.find("[16,"), std::string::npos);
  first.replace(first.find("[16,"), 4, "[16,9");
  std::ofstream(Figures(), std::ios::binary) << first << "[0,1,[[2,";
  const ModelResult result = DiffusionOrchestrator(Config(0.019)).QuantizeModel(model_, directory_ / "out");
  ASSERT_TRUE(result.precision.has_value());
  ASSERT_EQ(result.precision->layers.size(), 2U);
  EXPECT_GT(result.precision->layers[0].widths.back().bytes, 9 * whole.precision->layers[0].widths.back().bytes);
  EXPECT_EQ(result.precision->layers[1].widths.back().bytes, whole.precision->layers[1].widths.back().bytes);
  EXPECT_EQ(Content(directory_ / "out" / "model.parquet"), Content(directory_ / "whole" / "model.parquet"));
  EXPECT_FALSE(fs::exists(directory_ / ".out.partial"));
}

TEST_F(MixedPrecision, DoesNotContinueForAnotherSize) {
  StopAfterMeasuring(Config(0.019), model_, directory_ / "out");
  try {
    DiffusionOrchestrator(Config(0.018)).QuantizeModel(model_, directory_ / "out");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("target_size_mb was 0.019 and is 0.018"), std::string::npos)
        << error.what();
  }
}

TEST_F(MixedPrecision, PlansWhatItMakes) {
  const ModelResult plan = DiffusionOrchestrator(Config(0.019)).PlanModel(model_);
  const ModelResult made = DiffusionOrchestrator(Config(0.019)).QuantizeModel(model_, directory_ / "out");
  ASSERT_TRUE(plan.precision && made.precision);
  for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(plan.precision->layers[i].bits, made.precision->layers[i].bits);
  EXPECT_EQ(plan.precision->expected_bytes, made.precision->expected_bytes);
  EXPECT_LE(made.parquet_bytes, made.precision->expected_bytes);
}

// Sensitivity decides where errors are alike.
TEST_F(MixedPrecision, GivesBitsToWhatTheModelIsSensitiveTo) {
  const ModelOptions plain = ModelOptionsFromConfig(Config(0.019));
  for (const char* name : {"blocks.0.attn.weight", "blocks.1.attn.weight"}) {
    ModelOptions options = plain;
    options.precision.sensitivity[""] = {{"blocks.0.attn.weight", 1e-3}, {"blocks.1.attn.weight", 1e-3}};
    options.precision.sensitivity[""][name] = 10;
    options.precision.size_mb = static_cast<double>(PlanModel(model_, plain).precision->smallest_bytes + 1500) / 1e6;
    const ModelResult plan = PlanModel(model_, options);
    int favoured = 0;
    int other = 0;
    for (const LayerWidths& layer : plan.precision->layers) (layer.name == name ? favoured : other) = layer.bits;
    EXPECT_GT(favoured, other) << name;
  }
}

}  // namespace
}  // namespace arrow_quant
