#include "arrow_quant/io/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/test_directory.h"

namespace arrow_quant {
namespace {

TEST(AtomicFile, AppearsOnCommitOnly) {
  const TestDirectory directory;
  WriteBytes(directory / "a.txt", "old");
  AtomicFile file(directory / "a.txt");
  file.Append("new content", 11);
  EXPECT_EQ(ReadBytes(directory / "a.txt"), "old");
  file.Commit();
  EXPECT_EQ(ReadBytes(directory / "a.txt"), "new content");
  EXPECT_EQ(directory.Names(), std::vector<std::string>{"a.txt"});
  EXPECT_EQ(file.checksum(), ChecksumFile(directory / "a.txt"));
  EXPECT_THROW(file.Append("x", 1), Error);
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const TestDirectory directory;
  {
    AtomicFile file(directory / "a.txt");
    file.Append("half", 4);
    EXPECT_EQ(directory.Names().size(), 1U);
    EXPECT_TRUE(IsTemporaryName(directory.Names()[0]));
  }
  EXPECT_TRUE(directory.Names().empty());
}

TEST(AtomicFile, NamesTheMissingDirectory) {
  const TestDirectory directory;
  try {
    const AtomicFile file(directory / "absent/a.txt");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kIo);
    EXPECT_EQ(e.context().file, (directory / "absent/a.txt").string());
  }
}

TEST(AtomicFile, FullDiskIsSaidInWords) {
  try {
    ThrowErrno(ENOSPC, "cannot write", "/x/y.parquet");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(e.what()).find("/x/y.parquet: cannot write: no space left on the device"), std::string::npos);
    EXPECT_FALSE(e.context().remedy.empty());
  }
}

// A limit on the size of files stands for a full disk: write() fails in the middle in the same way.
TEST(AtomicFile, FailingWriteLeavesTheOldFile) {
  const TestDirectory directory;
  WriteBytes(directory / "a.bin", "old");
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(WriteFileAtomically(directory / "a.bin", std::string(10000, 'x')), Error);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(ReadBytes(directory / "a.bin"), "old");
  EXPECT_EQ(directory.Names().size(), 1U);
}

TEST(RemoveStaleTemporaries, KeepsThoseOfRunningWriters) {
  const TestDirectory directory;
  WriteBytes(directory / ".model.parquet.tmp-123-0", "of a killed process");
  WriteBytes(directory / ".hidden", "someone else's");
  WriteBytes(directory / "x.tmp-1-1", "someone else's");
  const AtomicFile running(directory / "b.parquet");
  EXPECT_EQ(RemoveStaleTemporaries(directory.path()), 1);
  EXPECT_EQ(directory.Names().size(), 3U);
  EXPECT_FALSE(std::filesystem::exists(directory / ".model.parquet.tmp-123-0"));
}

TEST(CopyFileAtomically, CopiesBytesAndFollowsLinks) {
  const TestDirectory directory;
  WriteBytes(directory / "blob", std::string(3'000'000, '\7'));
  std::filesystem::create_symlink(directory / "blob", directory / "link");
  CopyFileAtomically(directory / "link", directory / "copy", Durability::kNoSync);
  EXPECT_EQ(ReadBytes(directory / "copy"), ReadBytes(directory / "blob"));
  EXPECT_THROW(CopyFileAtomically(directory / "absent", directory / "copy2"), Error);
  EXPECT_FALSE(std::filesystem::exists(directory / "copy2"));
}

TEST(ReadSmallFile, RefusesALongFile) {
  const TestDirectory directory;
  WriteBytes(directory / "a", "12345");
  EXPECT_EQ(ReadSmallFile(directory / "a", 5), "12345");
  EXPECT_THROW(ReadSmallFile(directory / "a", 4), Error);
}

}  // namespace
}  // namespace arrow_quant
