#include "arrow_quant/orchestrate/statistics_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/test_directory.h"

namespace arrow_quant {
namespace {

ActivationStatistics Example(bool keep_groups) {
  ActivationStatistics s(TimeGroups::Uniform(1000, 3), keep_groups, 4, 9);
  const int a = s.AddInput(3);
  const int b = s.AddInput(2);
  s.MapLayer({"unet", "q.weight"}, {a});
  s.MapLayer({"unet", "conv.weight"}, {b, a});
  const std::vector<float> rows = {1, 2, 3, -4, 5.5F, 6, 7, 8, 9};
  s.Update(a, {rows.data(), DType::kF32, 3, 3}, 20, false, 1);
  s.Update(a, {rows.data(), DType::kF32, 2, 3}, 900, false, 1);
  s.Update(a, {rows.data(), DType::kF32, 3, 3}, 900, true, 1);
  const ActivationRows reference{rows.data() + 1, DType::kF32, 4, 2};
  s.Update(b, {rows.data(), DType::kF32, 4, 2}, 400, false, 1, &reference);
  s.Update(b, {rows.data(), DType::kF32, 4, 2}, 400, true, 1, &reference);
  s.SetSensitivity({0, 0.25, 3});
  return s;
}

class StatisticsFileTest : public testing::TestWithParam<bool> {};

TEST_P(StatisticsFileTest, ReadsBackWhatWasWritten) {
  const TestDirectory directory;
  const ActivationStatistics s = Example(GetParam());
  WriteStatistics(s, R"({"model":"x"})", directory.path() / "a.parquet");
  const StatisticsFile file(directory.path() / "a.parquet");
  EXPECT_EQ(file.facts(), R"({"model":"x"})");
  EXPECT_EQ(file.time_groups().boundaries(), s.time_groups().boundaries());
  EXPECT_EQ(file.layers(), s.layers());
  EXPECT_EQ(file.sensitivity(), (std::vector<double>{0, 0.25, 3}));
  EXPECT_EQ(file.keeps_groups(), GetParam());
  ASSERT_EQ(file.size(), 2);
  const LayerInputs found = file.Find({"unet", "conv.weight"});
  ASSERT_EQ(found.size(), 2U);
  for (int i = 0; i < 2; ++i) {
    const InputStatistics& want = s.input(i);
    const InputStatistics& got = *found[i == 0 ? 1 : 0];
    EXPECT_EQ(got.SecondMoment(), want.SecondMoment());
    EXPECT_EQ(got.Drift(), want.Drift());
    EXPECT_EQ(want.Drift().empty(), i == 0);
    for (int g = 0; g < 3; ++g) {
      EXPECT_EQ(got.count(g), want.count(g));
      EXPECT_EQ(got.held_out(g), want.held_out(g));
      EXPECT_EQ(got.held_out_reference(g), want.held_out_reference(g));
      EXPECT_EQ(got.held_out_offered(g), want.held_out_offered(g));
      ASSERT_EQ(got.channel_moments(g).size(), want.channel_moments(g).size());
      for (std::size_t c = 0; c < want.channel_moments(g).size(); ++c) {
        EXPECT_FLOAT_EQ(static_cast<float>(got.channel_moments(g)[c].Std()),
                        static_cast<float>(want.channel_moments(g)[c].Std()));
        EXPECT_EQ(got.channel_moments(g)[c].max, want.channel_moments(g)[c].max);
      }
    }
    EXPECT_EQ(got.timesteps().size(), want.timesteps().size());
  }
  EXPECT_TRUE(file.Find({"", "q.weight"}).empty());
}

INSTANTIATE_TEST_SUITE_P(KeepGroups, StatisticsFileTest, testing::Bool());

TEST(StatisticsFile, SameBytesTwice) {
  const TestDirectory directory;
  WriteStatistics(Example(true), "{}", directory.path() / "a.parquet");
  WriteStatistics(Example(true), "{}", directory.path() / "b.parquet");
  std::ifstream a(directory.path() / "a.parquet", std::ios::binary);
  std::ifstream b(directory.path() / "b.parquet", std::ios::binary);
  EXPECT_TRUE(std::equal(std::istreambuf_iterator<char>(a), {}, std::istreambuf_iterator<char>(b), {}));
}

TEST(StatisticsFile, PartsAreAsTheWhole) {
  const TestDirectory directory;
  const std::vector<float> rows = {1, 2, 3, -4, 5.5F, 6};
  const auto part = [&](const std::string& layer, float scale) {
    ActivationStatistics s(TimeGroups::Uniform(1000, 3), true, 4, 9);
    AlignedVector<float> scaled(rows.begin(), rows.end());
    for (float& x : scaled) x *= scale;
    s.MapLayer({"", layer}, {s.AddInput(3)});
    s.Update(0, {scaled.data(), DType::kF32, 2, 3}, 20, false, 1);
    return s;
  };
  StatisticsWriter writer(directory.path() / "a.parquet");
  writer.Append(part("a.weight", 1));
  writer.Append(part("b.weight", 2));
  EXPECT_THROW(writer.Append(ActivationStatistics(TimeGroups::Uniform(1000, 2), true, 4, 9)), Error);
  writer.Close("{}");
  const StatisticsFile file(directory.path() / "a.parquet");
  ASSERT_EQ(file.size(), 2);
  const auto loudness = [&](const char* layer) {
    const LayerInputs inputs = file.Find({"", layer});
    EXPECT_EQ(inputs.size(), 1U);
    return inputs.front()->SecondMoment()[0];
  };
  EXPECT_FLOAT_EQ(loudness("b.weight"), 4 * loudness("a.weight"));
}

TEST(StatisticsFile, NamesWhatIsWrong) {
  const TestDirectory directory;
  const auto code = [](const std::filesystem::path& path) {
    try {
      const StatisticsFile file(path);
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("calibrate"), std::string::npos) << e.what();
      return e.code();
    }
    return ErrorCode::kCancelled;
  };
  EXPECT_EQ(code(directory.path() / "none.parquet"), ErrorCode::kModelNotFound);
  {
    ArrayFileWriter writer(directory.path() / "other.parquet");
    writer.Append({{"x", AlignedVector<float>(3)}});
    writer.Close(R"({"format":1})");
  }
  EXPECT_EQ(code(directory.path() / "other.parquet"), ErrorCode::kCorruptFile);
  {
    ArrayFileWriter writer(directory.path() / "layer.parquet");
    writer.Close(R"({"format":1,"boundaries":[0,1],"keep_groups":true,"held_out_rows":0,"channels":[],
                     "layers":[{"component":"","name":"q","inputs":[0]}],"facts":{}})");
  }
  EXPECT_EQ(code(directory.path() / "layer.parquet"), ErrorCode::kCorruptFile);
  {
    ArrayFileWriter writer(directory.path() / "sensitivity.parquet");
    writer.Close(R"({"format":1,"boundaries":[0,1],"keep_groups":true,"held_out_rows":0,"channels":[],
                     "layers":[],"facts":{},"sensitivity":[-1]})");
  }
  EXPECT_EQ(code(directory.path() / "sensitivity.parquet"), ErrorCode::kCorruptFile);
}

}  // namespace
}  // namespace arrow_quant
