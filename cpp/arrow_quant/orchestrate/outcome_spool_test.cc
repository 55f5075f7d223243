#include "arrow_quant/orchestrate/outcome_spool.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/test_directory.h"

namespace arrow_quant {
namespace {

TensorOutcome Outcome(const std::string& name, std::size_t codes) {
  TensorOutcome outcome;
  outcome.matrix.rows = 2;
  outcome.matrix.cols = 8;
  outcome.matrix.bits = 4;
  outcome.matrix.group_size = 4;
  outcome.matrix.grid = GridKind::kResidualBinary;
  outcome.matrix.codes.assign(codes, 0xA5);
  outcome.matrix.scales = {0.1F, -0.0F, std::numeric_limits<float>::denorm_min()};
  outcome.matrix.column_scales = {1.5F};
  outcome.sums = {1.0 / 3, 2, 3, std::numeric_limits<double>::quiet_NaN()};
  outcome.report.name = name;
  outcome.report.shape = {2, 8};
  outcome.report.quantized = true;
  outcome.report.cosine = 0.1;
  outcome.report.time_groups = {{0, 0.5, 7, 0.25, 12}};
  outcome.report.fallbacks = {
      {.layer = name, .from_bits = 2, .to_bits = 4, .cause = "a \"cause\"", .cosine_before = 1}};
  outcome.report.activations.method = "time_aware";
  outcome.report.activations.ranges = {"mse", ""};
  outcome.activations.boundaries = {0, 1};
  outcome.activations.scales = {2};
  outcome.replacement = {std::byte{1}, std::byte{2}};
  return outcome;
}

void ExpectSame(const TensorOutcome& a, const TensorOutcome& b) {
  EXPECT_EQ(a.report.name, b.report.name);
  EXPECT_EQ(ToJson(a.report), ToJson(b.report));
  EXPECT_EQ(a.report.shape, b.report.shape);
  ASSERT_EQ(a.report.fallbacks.size(), b.report.fallbacks.size());
  EXPECT_EQ(a.report.fallbacks[0].cause, b.report.fallbacks[0].cause);
  EXPECT_EQ(a.report.activations.ranges, b.report.activations.ranges);
  EXPECT_EQ(a.matrix.grid, b.matrix.grid);
  EXPECT_EQ(a.matrix.codes, b.matrix.codes);
  EXPECT_EQ(a.matrix.scales, b.matrix.scales);
  EXPECT_EQ(a.matrix.column_scales, b.matrix.column_scales);
  EXPECT_EQ(a.sums.ww, b.sums.ww);
  EXPECT_TRUE(std::isnan(b.sums.ee));
  EXPECT_EQ(a.activations.boundaries, b.activations.boundaries);
  EXPECT_EQ(a.activations.scales, b.activations.scales);
  EXPECT_EQ(a.replacement, b.replacement);
}

std::vector<std::string> NamesIn(const std::filesystem::path& path) {
  OutcomeSpoolReader reader(path);
  std::vector<std::string> names;
  while (const auto outcome = reader.Next()) names.push_back(outcome->report.name);
  return names;
}

TEST(OutcomeSpool, GivesBackWhatWasAppended) {
  const TestDirectory directory;
  const std::vector<TensorOutcome> outcomes = {Outcome("a", 8), Outcome("b", 200000), Outcome("", 0)};
  {
    OutcomeSpool spool(directory / "spool", 0);
    for (const TensorOutcome& outcome : outcomes) spool.Append(outcome);
  }
  OutcomeSpoolReader reader(directory / "spool");
  for (const TensorOutcome& outcome : outcomes) {
    const auto read = reader.Next();
    ASSERT_TRUE(read);
    ExpectSame(outcome, *read);
  }
  EXPECT_FALSE(reader.Next());
  EXPECT_EQ(reader.valid_bytes(), std::filesystem::file_size(directory / "spool"));
}

TEST(OutcomeSpool, ReadingEndsAtAnyCutOrDamage) {
  const TestDirectory directory;
  {
    OutcomeSpool spool(directory / "spool", 0);
    for (const char* name : {"a", "b"}) spool.Append(Outcome(name, 30));
  }
  const std::string whole = ReadBytes(directory / "spool");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    WriteBytes(directory / "cut", whole.substr(0, size));
    EXPECT_EQ(NamesIn(directory / "cut").size(), size < whole.size() / 2 ? 0U : 1U) << size;
    std::string damaged = whole;
    damaged[size] ^= 1;
    WriteBytes(directory / "damaged", damaged);
    EXPECT_EQ(NamesIn(directory / "damaged").size(), size < whole.size() / 2 ? 0U : 1U) << size;
  }
}

TEST(OutcomeSpool, GoesOnBehindTheLastWholeRecord) {
  const TestDirectory directory;
  OutcomeSpool(directory / "spool", 0).Append(Outcome("a", 30));
  const std::string one = ReadBytes(directory / "spool");
  WriteBytes(directory / "spool", one + one.substr(0, 40));
  OutcomeSpoolReader reader(directory / "spool");
  while (reader.Next()) {
  }
  OutcomeSpool(directory / "spool", reader.valid_bytes()).Append(Outcome("b", 3));
  EXPECT_EQ(NamesIn(directory / "spool"), (std::vector<std::string>{"a", "b"}));
}

TEST(OutcomeSpool, NoFileHasNoRecords) {
  const TestDirectory directory;
  EXPECT_FALSE(OutcomeSpoolReader(directory / "nothing").Next());
  EXPECT_THROW(OutcomeSpool(directory / "nowhere/spool", 0), Error);
}

TEST(FinishedFile, IsReadBackUnlessItIsDamaged) {
  const TestDirectory directory;
  const TensorOutcome outcome = Outcome("a", 3);
  const FinishedFile file{"model.parquet", 17, "xxh64:00", 3, {{outcome.sums, outcome.report}}};
  SaveFinishedFile(file, directory / "0-0.done");
  const auto read = LoadFinishedFile(directory / "0-0.done");
  ASSERT_TRUE(read);
  EXPECT_EQ(read->name, file.name);
  EXPECT_EQ(read->bytes, 17U);
  EXPECT_EQ(read->checksum, file.checksum);
  ASSERT_EQ(read->tensors.size(), 1U);
  EXPECT_EQ(ToJson(read->tensors[0].report), ToJson(outcome.report));
  std::string bytes = ReadBytes(directory / "0-0.done");
  bytes.back() ^= 1;
  WriteBytes(directory / "0-0.done", bytes);
  EXPECT_FALSE(LoadFinishedFile(directory / "0-0.done"));
  EXPECT_FALSE(LoadFinishedFile(directory / "0-1.done"));
}

}  // namespace
}  // namespace arrow_quant
