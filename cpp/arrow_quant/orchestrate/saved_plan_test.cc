#include "arrow_quant/orchestrate/saved_plan.h"

#include <gtest/gtest.h>

#include <memory>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/safetensors/test_files.h"
#include "arrow_quant/orchestrate/model_options.h"
#include "arrow_quant/orchestrate/run_key.h"

namespace arrow_quant {
namespace {

using testing::SafetensorsOf;
using testing::TempDirectory;

constexpr const char* kPlan = R"({"layers": [
  {"name": "b", "component": "c", "shape": [4, 32], "bits": 4, "group_size": 16, "method": "min_max", "tail": 16},
  {"name": "a", "shape": [4, 32], "bits": 8, "keep": true}],
  "kept": [{"name": "d", "shape": [4], "reason": "fewer than two axes"}], "warnings": []})";

TEST(SavedPlan, ReadsWhatMayBeEdited) {
  const SavedPlan plan = ParsePlan(kPlan, "p.json");
  ASSERT_EQ(plan.tensors.size(), 3U);
  EXPECT_EQ(plan.tensors[0].component, "c");
  EXPECT_EQ(plan.tensors[0].bits, 4);
  EXPECT_EQ(plan.tensors[0].group_size, 16);
  EXPECT_EQ(plan.tensors[0].method, "min_max");
  EXPECT_EQ(plan.tensors[1].bits, 16);
  EXPECT_EQ(plan.tensors[2].bits, 16);
}

TEST(SavedPlan, FormatTellsDecisionsAndNothingElse) {
  std::string moved = kPlan;
  moved.replace(moved.find("\"tail\": 16"), 10, "\"tail\": 99");
  EXPECT_EQ(FormatPlan(ParsePlan(kPlan)), FormatPlan(ParsePlan(moved)));
  std::string edited = kPlan;
  edited.replace(edited.find("\"bits\": 4"), 9, "\"bits\": 2");
  EXPECT_NE(FormatPlan(ParsePlan(kPlan)), FormatPlan(ParsePlan(edited)));
}

class BadPlan : public ::testing::TestWithParam<const char*> {};

TEST_P(BadPlan, IsAConfigurationError) {
  try {
    static_cast<void>(ParsePlan(GetParam(), "p.json"));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfiguration);
    EXPECT_EQ(error.context().file, "p.json");
  }
}

INSTANTIATE_TEST_SUITE_P(All, BadPlan,
                         ::testing::Values("", "[]", "{", R"({"layers": []})", R"({"layers": {}, "kept": []})",
                                           R"({"layers": [{"bits": 4}], "kept": []})",
                                           R"({"layers": [{"name": "a"}], "kept": []})",
                                           R"({"layers": [{"name": 1, "bits": 4}], "kept": []})",
                                           R"({"layers": [{"name": "a", "bits": 7}], "kept": []})",
                                           R"({"layers": [{"name": "a", "bits": 4.5}], "kept": []})",
                                           R"({"layers": [{"name": "a", "bits": 4294967300}], "kept": []})",
                                           R"({"layers": [{"name": "a", "bits": 4, "shape": "x"}], "kept": []})",
                                           R"({"layers": [{"name": "a", "bits": 4, "keep": 1}], "kept": []})",
                                           R"({"layers": [{"name": "a", "bits": 4, "method": "x"}], "kept": []})",
                                           R"({"layers": [{"name": "a", "bits": 4, "groups": 1}], "kept": []})",
                                           R"({"layers": [{"name": "a", "bits": 4}], "kept": [{"name": "a"}]})"));

// What the plan says is part of what a run is known by.
TEST(SavedPlan, AnotherPlanDoesNotContinueARun) {
  const TempDirectory directory;
  const auto model = directory.Write("model.safetensors", SafetensorsOf({{.name = "a.weight", .shape = {16, 32}},
                                                                         {.name = "b.weight", .shape = {16, 32}}}));
  const auto options = [&](int bits) {
    ModelOptions o;
    o.diffusion = false;
    o.plan = std::make_shared<const SavedPlan>(
        SavedPlan{"p", {{"", "a.weight", {16, 32}, bits, 16, ""}, {"", "b.weight", {16, 32}, 4, 16, ""}}});
    return o;
  };
  const ModelSource source = ResolveModel(model);
  const std::string key = RunKey(source, options(4), {});
  EXPECT_EQ(RunKey(source, options(4), {}), key);
  EXPECT_NE(DescribeKeyChange(key, RunKey(source, options(8), {})).find("from_plan was"), std::string::npos);
}

}  // namespace
}  // namespace arrow_quant
