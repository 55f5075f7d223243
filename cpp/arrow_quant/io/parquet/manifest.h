#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace arrow_quant {

// Name of the manifest in a model's directory.
inline constexpr char kManifestName[] = "manifest.json";
// Raised when an older program could misread a model.
inline constexpr int kFormatVersion = 2;
// What models without rotations and shifts are written as: older readers understand them.
inline constexpr int kPlainFormatVersion = 1;

// One file of a model.
struct ManifestFile {
  std::string path;  // relative to the directory, with "/"
  std::uint64_t bytes = 0;
  std::string checksum;  // "xxh64:..."
};

// What a finished model consists of. It is written last: a directory without one is not finished.
struct Manifest {
  int format_version = kPlainFormatVersion;
  std::string product_version;
  std::vector<ManifestFile> files;                  // sorted by path when written
  std::map<std::string, std::string> fingerprints;  // "source", "config", "calibration", ...
  std::string extra_json = "{}";                    // an object; kept under "extra"
};

// Size and checksum of directory/path. Throws Error kIo.
ManifestFile DescribeFile(const std::filesystem::path& directory, const std::string& path);

// Write directory/manifest.json atomically; equal manifests give equal bytes. Throws Error kIo, kInvalidArgument for
// extra_json that is no JSON object, text that is not UTF-8 or a path that leaves the directory.
void WriteManifest(const std::filesystem::path& directory, const Manifest& manifest);

// Throws Error kIo when it is missing, kCorruptFile when it is malformed, kUnsupported for a newer format version.
Manifest ReadManifest(const std::filesystem::path& directory);

enum class VerifyDepth { kSizes, kChecksums };

// What is wrong with the files that the manifest lists, one sentence each; empty when all is well. Throws as
// ReadManifest.
std::vector<std::string> VerifyManifest(const std::filesystem::path& directory,
                                        VerifyDepth depth = VerifyDepth::kChecksums);

}  // namespace arrow_quant
