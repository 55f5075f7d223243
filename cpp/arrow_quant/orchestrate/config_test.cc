#include "arrow_quant/orchestrate/config.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <string>

#include "arrow_quant/base/error.h"
#include "arrow_quant/orchestrate/config_fields.h"

namespace arrow_quant {
namespace {

// The message of the kConfiguration error that `text` gives; fails when there is none.
std::string ErrorOf(std::string_view text) {
  try {
    DiffusionQuantConfig::FromJson(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfiguration);
    EXPECT_FALSE(error.context().remedy.empty());
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << text;
  return {};
}

bool Contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(ConfigProfile, DefaultIsLocal) {
  EXPECT_EQ(DiffusionQuantConfig{}.ToJson(), DiffusionQuantConfig::FromProfile("local").ToJson());
  EXPECT_EQ(DiffusionQuantConfig::FromJson("{}").ToJson(), DiffusionQuantConfig{}.ToJson());
}

TEST(ConfigProfile, EveryProfileIsValidAndReadsBack) {
  for (const std::string_view name : ConfigProfiles()) {
    const std::string text = DiffusionQuantConfig::FromProfile(name).ToJson();
    EXPECT_EQ(DiffusionQuantConfig::FromJson(text).ToJson(), text) << name;
  }
}

TEST(ConfigProfile, UnknownNameIsRefused) {
  EXPECT_THROW(DiffusionQuantConfig::FromProfile("phone"), Error);
  EXPECT_THROW(DiffusionQuantConfig::FromJson("{}", "phone"), Error);
}

TEST(ConfigProfile, MissingKeysTakeTheProfileOfTheText) {
  const auto config = DiffusionQuantConfig::FromJson(R"({"group_size": 32, "deployment_profile": "edge"})");
  EXPECT_EQ(config.bit_width, 2);
  EXPECT_EQ(config.group_size, 32);
  EXPECT_EQ(config.num_time_groups, 5);
}

TEST(ConfigProfile, TheArgumentFillsTheGaps) {
  const auto config = DiffusionQuantConfig::FromJson(R"({"bit_width": 8})", "base");
  EXPECT_EQ(config.bit_width, 8);
  EXPECT_FALSE(config.enable_time_aware);
  EXPECT_FALSE(config.target_size_mb.has_value());
}

TEST(ConfigJson, NestedAndDottedKeysAreTheSame) {
  const auto nested =
      DiffusionQuantConfig::FromJson(R"({"thermodynamic": {"boundary_smoothing": {"window_size": 7}}})");
  const auto dotted = DiffusionQuantConfig::FromJson(R"({"thermodynamic.boundary_smoothing.window_size": 7})");
  EXPECT_EQ(nested.thermodynamic.boundary_smoothing.window_size, 7);
  EXPECT_EQ(nested.ToJson(), dotted.ToJson());
}

TEST(ConfigJson, LayerBitWidthsKeepTheirOrder) {
  const auto config = DiffusionQuantConfig::FromJson(R"({"layer_bit_widths": {"z.*": 8, "a.*": 2, "m": 16}})");
  const LayerBitWidths expected = {{"z.*", 8}, {"a.*", 2}, {"m", 16}};
  EXPECT_EQ(config.layer_bit_widths, expected);
}

TEST(ConfigJson, TimeWeightingIsAWordOrAList) {
  EXPECT_EQ(
      std::get<std::string>(DiffusionQuantConfig::FromJson(R"({"time_weighting": "sensitivity"})").time_weighting),
      "sensitivity");
  const auto config = DiffusionQuantConfig::FromJson(R"({"time_weighting": [0, 1, 2.5], "num_time_groups": 3})");
  EXPECT_EQ(std::get<std::vector<double>>(config.time_weighting), (std::vector<double>{0, 1, 2.5}));
}

TEST(ConfigJson, AnIntegerIsANumber) {
  EXPECT_EQ(DiffusionQuantConfig::FromJson(R"({"min_accuracy": 1})").min_accuracy, 1.0);
}

TEST(ConfigError, UnknownKeysNameTheNearest) {
  EXPECT_TRUE(Contains(ErrorOf(R"({"bitwidth": 4})"), "'bit_width'"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"Group-Size": 64})"), "'group_size'"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"thermodynamic": {"validation": {"enable": true}}})"),
                       "'thermodynamic.validation.enabled'"));
  EXPECT_FALSE(Contains(ErrorOf(R"({"qqqqqqqqqqqqqqqqqqqqqqq": 4})"), "nearest"));
}

TEST(ConfigError, BadValuesNameKeyValueAndWhatIsAllowed) {
  const std::string text = ErrorOf(R"({"group_size": 100})");
  EXPECT_TRUE(Contains(text, "group_size is 100")) << text;
  EXPECT_TRUE(Contains(text, "16, 32, 64, 128, 256 or -1 (-1 is one group per row)")) << text;
  EXPECT_TRUE(Contains(ErrorOf(R"({"min_accuracy": 1.5})"), "a number from 0 to 1"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"thermodynamic": {"transition_optimization": {"learning_rate": 0}}})"),
                       "a number above 0, at most 1"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"rounding": "gptq"})"), R"("gptq"; it must be auto, nearest or ldlq)"));
}

TEST(ConfigError, WrongTypesAreRefused) {
  for (const char* text : {R"({"bit_width": "4"})",
                           R"({"bit_width": 4.0})",
                           R"({"bit_width": true})",
                           R"({"bit_width": null})",
                           R"({"bit_width": 18446744073709551615})",
                           R"({"bit_width": 4294967300})",
                           R"({"bit_width": 1e400})",
                           R"({"enable_spatial": 1})",
                           R"({"enable_spatial": "true"})",
                           R"({"modality": 3})",
                           R"({"modality": ""})",
                           R"({"min_accuracy": [0.5]})",
                           R"({"keep_patterns": "norm"})",
                           R"({"keep_patterns": [1]})",
                           R"({"layer_bit_widths": [["a", 4]]})",
                           R"({"layer_bit_widths": {"a": 5}})",
                           R"({"layer_bit_widths": {"": 4}})",
                           R"({"time_weighting": [1, "2"], "num_time_groups": 2})",
                           R"({"time_weighting": {}})",
                           R"({"thermodynamic": true})",
                           R"({"thermodynamic": {"validation": []}})",
                           R"({"deployment_profile": "base"})",
                           R"({"deployment_profile": 1})",
                           R"({"seed": -1})"}) {
    ErrorOf(text);
  }
}

TEST(ConfigError, RegularExpressionsAreCompiled) {
  EXPECT_TRUE(Contains(ErrorOf(R"({"keep_patterns": ["norm", "a(b"]})"), "'a(b' is not a regular expression"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"layer_bit_widths": {"[": 4}})"), "layer_bit_widths"));
  EXPECT_TRUE(Contains(ErrorOf("{\"keep_patterns\": [\"" + std::string(2000, '(') + "\"]}"), "longer than"));
}

TEST(ConfigError, MalformedTextIsRefused) {
  for (const char* text : {"", "[]", "4", "null", "{", R"({"seed": 1,})", R"({"seed": NaN})", "{\"variant\": \"\xff\"}",
                           R"({"variant": "\ud800"})", R"({"variant": "a\u0000b"})"}) {
    ErrorOf(text);
  }
  EXPECT_TRUE(Contains(ErrorOf(R"({"seed": 1, "seed": 2})"), "given twice"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"layer_bit_widths": {"a": 2, "a": 4}})"), "given twice"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"thermodynamic.validation.enabled": true,
                                   "thermodynamic": {"validation": {"enabled": true}}})"),
                       "given twice"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"seed": )" + std::string(100000, '[')), "nested too deeply"));
}

TEST(ConfigError, ContradictionsAreRefused) {
  EXPECT_TRUE(Contains(ErrorOf(R"({"time_weighting": [1, 2]})"), "num_time_groups is 10"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"time_weighting": [1], "num_time_groups": 1, "time_grouping": "auto"})"),
                       "time_grouping is auto"));
  ErrorOf(R"({"time_weighting": [0, 0], "num_time_groups": 2})");
  ErrorOf(R"({"time_weighting": [1, -1], "num_time_groups": 2})");
  EXPECT_TRUE(Contains(ErrorOf(R"({"rounding": "ldlq", "calibration": "none"})"), "needs activations"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"grid": "residual_binary", "bit_width": 4})"), "bit_width is 4"));
  EXPECT_NO_THROW(DiffusionQuantConfig::FromJson(R"({"grid": "residual_binary", "bit_width": 2})"));
  EXPECT_NO_THROW(DiffusionQuantConfig::FromJson(R"({"grid": "residual_binary", "layer_bit_widths": {"attn": 2}})"));
}

TEST(ConfigValidate, ChecksMembersThatWereSetByHand) {
  DiffusionQuantConfig config;
  config.min_accuracy = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(config.Validate(), Error);
  config = {};
  config.max_memory_limit_mb = std::numeric_limits<double>::infinity();
  EXPECT_THROW(config.ToJson(), Error);
  config = {};
  config.calibration = "path\xff";
  EXPECT_THROW(config.Validate(), Error);
  config = {};
  config.layer_bit_widths = {{"a", 2}, {"a", 4}};
  EXPECT_THROW(config.Validate(), Error);
  EXPECT_NO_THROW((DiffusionQuantConfig{.bit_width = 3, .group_size = -1}.Validate()));
}

TEST(ConfigValidate, TheOlderSizeKeyWins) {
  DiffusionQuantConfig config;
  EXPECT_EQ(config.SizeBudgetMb(), 200.0);
  config.target_model_size_mb = 50.0;
  EXPECT_EQ(config.SizeBudgetMb(), 50.0);
  config.target_model_size_mb.reset();
  config.target_size_mb.reset();
  EXPECT_EQ(config.SizeBudgetMb(), std::nullopt);
}

TEST(ConfigFields, NamesAreUniqueAndFound) {
  std::set<std::string_view> names;
  std::set<std::string> environment;
  for (const ConfigField& field : ConfigFields()) {
    EXPECT_TRUE(names.insert(field.name).second) << field.name;
    EXPECT_EQ(FindConfigField(field.name), &field);
    EXPECT_EQ(NearestConfigField(field.name), &field);
    for (const std::string& variable : FieldEnvironmentNames(field)) {
      EXPECT_TRUE(environment.insert(variable).second) << variable;
    }
  }
  EXPECT_EQ(FindConfigField("bits"), nullptr);
  ASSERT_NE(NearestConfigField("bits"), nullptr);
  EXPECT_EQ(NearestConfigField("bits")->name, "bit_width");
}

}  // namespace
}  // namespace arrow_quant
