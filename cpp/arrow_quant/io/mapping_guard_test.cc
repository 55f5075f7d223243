#include "arrow_quant/io/mapping_guard.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "arrow_quant/io/mmap_file.h"
#include "arrow_quant/io/test_directory.h"

namespace arrow_quant {
namespace {

constexpr std::size_t kPage = 4096;

TEST(MappingGuard, ZerosTakeThePlaceOfWhatIsGone) {
  const TestDirectory directory;
  WriteBytes(directory / "file", std::string(64 * kPage, 'x'));
  const MmapFile file(directory / "file");
  std::filesystem::resize_file(directory / "file", kPage);
  EXPECT_EQ(file.bytes()[0], std::byte{'x'});
  EXPECT_FALSE(file.ReadFailed());
  EXPECT_EQ(file.bytes()[40 * kPage], std::byte{0});
  EXPECT_EQ(file.bytes()[64 * kPage - 1], std::byte{0});
  EXPECT_TRUE(file.ReadFailed());
  EXPECT_TRUE(file.ChangedSinceOpen());
}

TEST(MappingGuard, OtherFilesAreNotConcerned) {
  const TestDirectory directory;
  WriteBytes(directory / "file", std::string(8 * kPage, 'x'));
  WriteBytes(directory / "other", std::string(8 * kPage, 'y'));
  MmapFile file(directory / "file");
  const MmapFile other(directory / "other");
  std::filesystem::resize_file(directory / "file", 0);
  const MmapFile moved = std::move(file);
  EXPECT_EQ(moved.bytes()[5 * kPage], std::byte{0});
  EXPECT_TRUE(moved.ReadFailed());
  EXPECT_FALSE(other.ReadFailed());
  EXPECT_EQ(other.bytes()[5 * kPage], std::byte{'y'});
}

TEST(MappingGuard, ASignalOfSomeoneElseEndsTheProcess) {
  const TestDirectory directory;
  WriteBytes(directory / "file", std::string(kPage, 'x'));
  const pid_t child = ::fork();
  if (child == 0) {
    const MappingGuard guard(&child, sizeof child);
    ::kill(::getpid(), SIGBUS);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_NE(status, 0);
}

}  // namespace
}  // namespace arrow_quant
