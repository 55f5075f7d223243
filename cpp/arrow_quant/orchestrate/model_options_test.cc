#include "arrow_quant/orchestrate/model_options.h"

#include <gtest/gtest.h>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

class BadOptions : public ::testing::TestWithParam<const char*> {};

TEST_P(BadOptions, AreConfigurationErrors) {
  try {
    static_cast<void>(ModelOptionsFromJson(GetParam()));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfiguration) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, BadOptions,
    ::testing::Values("", "[]", "{", R"({"bit_width": "4"})", R"({"bit_width": 18446744073709551616})",
                      R"({"bit_width": 4294967300})", R"({"bit_width": 1e300})", R"({"num_threads": -99999999999})",
                      R"({"fallback": 1})", R"({"layer_bit_widths": 1})", R"({"layer_bit_widths": {"a": "x"}})",
                      R"({"layer_bit_widths": {"a": 1e99}})", R"({"keep_patterns": [1]})", R"({"hadamard": "all"})",
                      R"({"thermodynamic": {"validation": {"enabled": 1}}})", R"({"thermodynamic": [1]})",
                      R"({"thermodynamic": {"boundary_smoothing": {"interpolation": "square"}}})"));

TEST(ModelOptions, ComeFromAConfiguration) {
  DiffusionQuantConfig config = DiffusionQuantConfig::FromProfile("edge");
  config.layer_bit_widths = {{"z", 8}, {"a.*", 16}};
  config.modality = "audio";
  const ModelOptions options = ModelOptionsFromConfig(config);
  EXPECT_EQ(options.bit_width, 2);
  EXPECT_EQ(options.group_size, config.group_size);
  EXPECT_EQ(options.min_accuracy, config.min_accuracy);
  EXPECT_EQ(options.layer_bit_widths, config.layer_bit_widths);
  EXPECT_EQ(options.modality, Modality::kAudio);
  EXPECT_TRUE(options.diffusion);
  EXPECT_FALSE(options.overwrite);
}

}  // namespace
}  // namespace arrow_quant
