#include "arrow_quant/orchestrate/staging_directory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/checksum.h"
#include "arrow_quant/io/test_directory.h"
#include "arrow_quant/orchestrate/run_key.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

constexpr char kKey[] = R"({"program":"1","source":"s","calibration":"none","options":{"bit_width":4,"grid":"auto"}})";

class StagingDirectoryTest : public ::testing::Test {
 protected:
  fs::path target() const { return directory_ / "out"; }
  fs::path hidden() const { return directory_ / ".out.partial"; }

  // A run that finishes one file and ends.
  void LeaveWork(bool overwrite = false) const {
    StagingDirectory staging(target(), overwrite);
    staging.Begin(kKey, true);
    WriteBytes(staging.path() / "model.parquet", "weights");
    staging.journal().Finish({0, 0}, {"model.parquet", 7, ChecksumFile(staging.path() / "model.parquet"), 1, {}});
  }
  // Whether a run finds the file of LeaveWork().
  static bool Finds(StagingDirectory& staging) {
    return staging.journal().Finished({0, 0}, staging.path()).has_value();
  }

  std::string RefusalOf(const std::string& key) const {
    StagingDirectory staging(target(), false);
    try {
      staging.Begin(key, true);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(error.context().remedy.find("--overwrite"), std::string::npos);
      return error.message();
    }
    return "";
  }

  TestDirectory directory_;
};

TEST_F(StagingDirectoryTest, CommitLeavesTheOutputOnly) {
  StagingDirectory staging(target(), false);
  staging.Begin(kKey, true);
  WriteBytes(staging.path() / "config.json", "{}");
  staging.Commit();
  EXPECT_EQ(directory_.Names(), std::vector<std::string>{"out"});
  EXPECT_TRUE(fs::exists(target() / "config.json"));
}

TEST_F(StagingDirectoryTest, NothingFinishedLeavesNothing) {
  {
    StagingDirectory staging(target(), false);
    staging.Begin(kKey, true);
    WriteBytes(staging.path() / ".model.parquet.tmp-1-0", "weights");
    OutcomeSpool(staging.journal().SpoolPath({0, 0}), 0);
  }
  EXPECT_TRUE(directory_.Names().empty());
}

TEST_F(StagingDirectoryTest, FinishedWorkIsFoundByTheSameKey) {
  LeaveWork();
  EXPECT_FALSE(fs::exists(target()));
  WriteBytes(hidden() / "output" / ".other.parquet.tmp-1-0", "x");
  StagingDirectory staging(target(), false);
  staging.Begin(kKey, true);
  EXPECT_TRUE(Finds(staging));
  EXPECT_FALSE(fs::exists(staging.path() / ".other.parquet.tmp-1-0"));
  staging.Commit();
  EXPECT_EQ(ReadBytes(target() / "model.parquet"), "weights");
}

TEST_F(StagingDirectoryTest, AFileThatIsNoLongerTheSameIsNotFinished) {
  LeaveWork();
  WriteBytes(hidden() / "output" / "model.parquet", "Weights");
  StagingDirectory staging(target(), false);
  staging.Begin(kKey, true);
  EXPECT_FALSE(Finds(staging));
}

TEST_F(StagingDirectoryTest, AnotherKeyIsRefusedWithWhatChanged) {
  LeaveWork();
  EXPECT_EQ(RefusalOf(kKey), "");
  const auto with = [](std::string from, std::string to) {
    std::string key = kKey;
    return key.replace(key.find(from), from.size(), to);
  };
  EXPECT_NE(RefusalOf(with(R"("bit_width":4)", R"("bit_width":2)")).find("bit_width was 4 and is 2"),
            std::string::npos);
  EXPECT_NE(RefusalOf(with(R"("source":"s")", R"("source":"t")")).find("the source has changed"), std::string::npos);
  EXPECT_NE(RefusalOf(with("none", "synthetic")).find("the calibration has changed"), std::string::npos);
  EXPECT_NE(RefusalOf(with(R"("1")", R"("2")")).find("version was 1 and is 2"), std::string::npos);
  EXPECT_TRUE(fs::exists(hidden() / "run.json"));
}

TEST_F(StagingDirectoryTest, OverwriteAndNoResumeBeginAnew) {
  LeaveWork();
  {
    StagingDirectory staging(target(), true);
    staging.Begin(kKey, true);
    EXPECT_FALSE(Finds(staging));
  }
  LeaveWork();
  {
    StagingDirectory staging(target(), false);
    staging.Begin(kKey, false);
    EXPECT_FALSE(Finds(staging));
  }
  LeaveWork(true);
  StagingDirectory staging(target(), true);
  staging.Begin(kKey, true);
  EXPECT_TRUE(Finds(staging));
}

TEST_F(StagingDirectoryTest, AnUnreadableJournalBeginsAnew) {
  LeaveWork();
  WriteBytes(hidden() / "run.json", "{");
  StagingDirectory staging(target(), false);
  staging.Begin(kKey, true);
  EXPECT_FALSE(Finds(staging));
}

TEST_F(StagingDirectoryTest, TheOldModelComesBackAfterAKillBetweenTheRenames) {
  fs::create_directories(hidden() / "replaced");
  WriteBytes(hidden() / "replaced" / "model.parquet", "old");
  EXPECT_THROW(StagingDirectory(target(), false), Error);
  EXPECT_EQ(ReadBytes(target() / "model.parquet"), "old");
}

TEST_F(StagingDirectoryTest, OverwritePutsTheNewModelInPlaceOfTheOld) {
  fs::create_directories(target());
  WriteBytes(target() / "old.parquet", "old");
  StagingDirectory staging(target(), true);
  staging.Begin(kKey, true);
  WriteBytes(staging.path() / "new.parquet", "new");
  staging.Commit();
  EXPECT_EQ(directory_.Names(), std::vector<std::string>{"out"});
  EXPECT_FALSE(fs::exists(target() / "old.parquet"));
  EXPECT_TRUE(fs::exists(target() / "new.parquet"));
}

TEST_F(StagingDirectoryTest, ASecondRunIsRefusedUntilTheFirstEnds) {
  std::optional<StagingDirectory> first;
  first.emplace(target(), false);
  try {
    StagingDirectory(target(), false);
    ADD_FAILURE() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(error.message().find("process " + std::to_string(::getpid())), std::string::npos) << error.message();
  }
  first.reset();
  EXPECT_NO_THROW(StagingDirectory(target(), false));
  EXPECT_TRUE(directory_.Names().empty());
}

TEST(RunLock, AFileThatNobodyHoldsStopsNobody) {
  const TestDirectory directory;
  WriteBytes(directory / "lock", "process 1 on nowhere");
  RunLock lock(directory.path());
  EXPECT_TRUE(lock.held());
  lock.Release();
  EXPECT_FALSE(fs::exists(directory.path()));
}

TEST(RunKey, OptionsThatChangeNoBytesAreNotInIt) {
  const auto key = [](const ModelOptions& options) { return RunKey({}, options, {}); };
  ModelOptions options;
  const std::string plain = key(options);
  options.num_threads = 7;
  options.overwrite = true;
  options.resume = false;
  EXPECT_EQ(key(options), plain);
  options.layer_bit_widths = {{"a", 2}, {"b", 4}};
  const std::string ordered = key(options);
  EXPECT_NE(DescribeKeyChange(plain, ordered).find("layer_bit_widths"), std::string::npos);
  options.layer_bit_widths = {{"b", 4}, {"a", 2}};
  EXPECT_NE(key(options), ordered);  // rules are tried in their order
}

TEST(RunKey, KnowsTheActivationsByTheirValues) {
  const auto key = [](float value) {
    ActivationStatistics statistics(TimeGroups::Uniform(1, 1, 0), true, 8, 0);
    const std::vector<float> row(4, value);
    statistics.MapLayer({"", "a"}, {statistics.AddInput(4)});
    statistics.Update(0, {row.data(), DType::kF32, 1, 4}, 0.5, false, 1);
    return RunKey({}, {}, {&statistics, "activations", {}});
  };
  EXPECT_EQ(key(1), key(1));
  EXPECT_EQ(DescribeKeyChange(key(1), key(2)), "the calibration has changed");
}

}  // namespace
}  // namespace arrow_quant
