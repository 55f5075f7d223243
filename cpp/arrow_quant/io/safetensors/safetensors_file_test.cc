#include "arrow_quant/io/safetensors/safetensors_file.h"

#include <gtest/gtest.h>

#include "arrow_quant/io/safetensors/test_files.h"

namespace arrow_quant {
namespace {

using testing::TempDirectory;

Error OpenError(const std::filesystem::path& path) {
  try {
    SafetensorsFile file(path);
  } catch (const Error& error) {
    return error;
  }
  return {ErrorCode::kInvalidArgument, "no error"};
}

TEST(SafetensorsFile, DataAreViewsOfTheMapping) {
  const TempDirectory dir;
  const SafetensorsFile file(dir.Write("m.safetensors", testing::SafetensorsNamed({"a", "b"})));
  ASSERT_EQ(file.tensors().size(), 2U);
  const auto data = file.Data(file.tensors()[1]);
  ASSERT_EQ(data.size(), 16U);
  EXPECT_EQ(data.front(), std::byte{2});
  EXPECT_EQ(data.data(), file.file().bytes().data() + file.tensors()[1].offset);
}

TEST(SafetensorsFile, AnLfsPointerTellsTheCommand) {
  const TempDirectory dir;
  const Error error = OpenError(dir.Write("m.safetensors", "version https://git-lfs.github.com/spec/v1\noid x\n"));
  EXPECT_EQ(error.code(), ErrorCode::kCorruptFile);
  EXPECT_NE(std::string(error.what()).find("git lfs pull"), std::string::npos);
  EXPECT_NE(std::string(error.what()).find("m.safetensors"), std::string::npos);
}

TEST(SafetensorsFile, AnUnknownDtypeIsUnsupportedAndNamed) {
  const TempDirectory dir;
  const std::string json = R"({"w":{"dtype":"F4","shape":[16],"data_offsets":[0,8]}})";
  const Error error = OpenError(dir.Write("m.safetensors", testing::SafetensorsBytes(json, "12345678")));
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_EQ(error.context().tensor, "w");
  EXPECT_NE(error.message().find("F4"), std::string::npos);
}

TEST(SafetensorsFile, ATwoGigabyteSparseFileOpensByItsHeader) {
  const TempDirectory dir;
  const std::uint64_t bytes = 2ULL << 30U;
  const std::string json = R"({"w":{"dtype":"U8","shape":[)" + std::to_string(bytes) + R"(],"data_offsets":[0,)" +
                           std::to_string(bytes) + "]}}";
  const auto path = dir.Write("m.safetensors", testing::SafetensorsBytes(json));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) + bytes);
  const SafetensorsFile file(path);
  EXPECT_EQ(file.tensors().front().num_bytes, static_cast<std::int64_t>(bytes));
}

}  // namespace
}  // namespace arrow_quant
