#include "arrow_quant/io/mmap_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/safetensors/test_files.h"

namespace arrow_quant {
namespace {

using testing::TempDirectory;

// The message of the Error that opening throws, after a check of its code.
std::string OpenError(const std::filesystem::path& path, ErrorCode code) {
  try {
    MmapFile file(path);
  } catch (const Error& error) {
    EXPECT_EQ(ErrorCodeName(error.code()), ErrorCodeName(code));
    EXPECT_EQ(error.context().file, path.string());
    return error.what();
  }
  ADD_FAILURE() << "opened";
  return {};
}

TEST(MmapFile, HoldsTheBytesAndMoves) {
  const TempDirectory dir;
  MmapFile file(dir.Write("ein Modell ä.bin", "hello"));
  ASSERT_EQ(file.bytes().size(), 5U);
  MmapFile moved(std::move(file));
  EXPECT_EQ(moved.bytes()[4], std::byte{'o'});
  MmapFile other(dir.Write("b", "xy"));
  other = std::move(moved);
  EXPECT_EQ(other.bytes().size(), 5U);
}

TEST(MmapFile, ReleasedBytesAreReadAgain) {
  const TempDirectory dir;
  const MmapFile file(dir.Write("a", std::string(100'000, 'q')));
  file.AdviseSequential(5'000, 90'000);
  file.Release(5'000, 90'000);
  file.Release(99'999, 1'000'000'000);
  file.Release(1'000'000, 5);
  for (const std::byte value : file.bytes()) ASSERT_EQ(value, std::byte{'q'});
}

TEST(MmapFile, TellsWhenTheFileChanged) {
  const TempDirectory dir;
  const auto path = dir.Write("a", "first");
  const MmapFile file(path);
  EXPECT_FALSE(file.ChangedSinceOpen());
  dir.Write("b", "other");
  std::filesystem::rename(dir / "b", path);
  EXPECT_TRUE(file.ChangedSinceOpen());
  std::filesystem::remove(path);
  EXPECT_TRUE(file.ChangedSinceOpen());
}

TEST(MmapFile, ErrorsNameTheFile) {
  const TempDirectory dir;
  OpenError(dir / "missing", ErrorCode::kModelNotFound);
  OpenError(dir.Write("empty", ""), ErrorCode::kCorruptFile);
  OpenError(dir.path(), ErrorCode::kIo);
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  OpenError(dir / "pipe", ErrorCode::kIo);
}

TEST(MmapFile, ADanglingLinkNamesItsTarget) {
  const TempDirectory dir;
  std::filesystem::create_symlink("blobs/gone", dir / "link");
  EXPECT_NE(OpenError(dir / "link", ErrorCode::kModelNotFound).find("blobs/gone"), std::string::npos);
}

TEST(MmapFile, ARefusedPermissionIsNamed) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const TempDirectory dir;
  const auto path = dir.Write("secret", "x");
  std::filesystem::permissions(path, std::filesystem::perms::none);
  EXPECT_NE(OpenError(path, ErrorCode::kIo).find("ermission"), std::string::npos);
}

}  // namespace
}  // namespace arrow_quant
