#include "arrow_quant/io/parquet/manifest.h"

#include <gtest/gtest.h>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/test_directory.h"

namespace arrow_quant {
namespace {

Manifest MakeManifest(const TestDirectory& directory) {
  std::filesystem::create_directories(directory / "vae");
  WriteBytes(directory / "b.parquet", "bbb");
  WriteBytes(directory / "vae/a.parquet", "a");
  Manifest manifest;
  manifest.product_version = "1.2.3";
  manifest.files = {DescribeFile(directory.path(), "vae/a.parquet"), DescribeFile(directory.path(), "b.parquet")};
  manifest.fingerprints = {{"source", "s"}, {"config", "c"}};
  manifest.extra_json = R"({"z": 1, "a": "\u00e4"})";
  return manifest;
}

TEST(Manifest, RoundTripAndVerification) {
  const TestDirectory directory;
  WriteManifest(directory.path(), MakeManifest(directory));
  const Manifest read = ReadManifest(directory.path());
  EXPECT_EQ(read.product_version, "1.2.3");
  EXPECT_EQ(read.fingerprints.at("config"), "c");
  ASSERT_EQ(read.files.size(), 2U);
  EXPECT_EQ(read.files[0].path, "b.parquet");
  EXPECT_EQ(read.files[0].bytes, 3U);
  EXPECT_EQ(read.extra_json, R"({"a":"ä","z":1})");
  EXPECT_TRUE(VerifyManifest(directory.path()).empty());
  WriteBytes(directory / "b.parquet", "bbc");
  EXPECT_EQ(VerifyManifest(directory.path()).size(), 1U);
  EXPECT_TRUE(VerifyManifest(directory.path(), VerifyDepth::kSizes).empty());
  std::filesystem::remove(directory / "vae/a.parquet");
  EXPECT_EQ(VerifyManifest(directory.path(), VerifyDepth::kSizes).size(), 1U);
}

TEST(Manifest, SameBytesWhateverTheOrder) {
  const TestDirectory directory;
  Manifest manifest = MakeManifest(directory);
  WriteManifest(directory.path(), manifest);
  const std::string bytes = ReadBytes(directory / kManifestName);
  std::swap(manifest.files[0], manifest.files[1]);
  manifest.extra_json = R"({"a":"ä","z":1})";
  WriteManifest(directory.path(), manifest);
  EXPECT_EQ(ReadBytes(directory / kManifestName), bytes);
}

TEST(Manifest, RefusesWhatItMustNotTrust) {
  const TestDirectory directory;
  EXPECT_THROW(ReadManifest(directory.path()), Error);
  const std::string head = R"({"format":"arrow-quant","product_version":"1","fingerprints":{},"extra":{},)";
  for (const std::string& bad :
       {std::string("{"), std::string("[]"), std::string(R"({"format":"other"})"),
        head + R"("format_version":99,"files":[]})", head + R"("format_version":"1","files":[]})",
        head + R"("format_version":1,"files":[{"path":"../x","bytes":1,"checksum":""}]})",
        head + R"("format_version":1,"files":[{"path":"/etc/x","bytes":1,"checksum":""}]})",
        head + R"("format_version":1,"files":[{"path":"x","bytes":-1,"checksum":""}]})",
        head + R"("format_version":1,"files":[{"path":"x"}]})", std::string(100000, '[')}) {
    WriteBytes(directory / kManifestName, bad);
    EXPECT_THROW(ReadManifest(directory.path()), Error) << bad.substr(0, 200);
  }
  Manifest manifest;
  manifest.extra_json = "[1]";
  EXPECT_THROW(WriteManifest(directory.path(), manifest), Error);
  manifest.extra_json = "{}";
  manifest.product_version = "\xff";
  EXPECT_THROW(WriteManifest(directory.path(), manifest), Error);
}

}  // namespace
}  // namespace arrow_quant
