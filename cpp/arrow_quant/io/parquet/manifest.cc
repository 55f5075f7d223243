#include "arrow_quant/io/parquet/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/atomic_file.h"
#include "arrow_quant/io/checksum.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxManifestBytes = std::size_t{64} << 20;

// A path that names something below the directory and nothing else.
bool StaysInside(const std::string& text) {
  const std::filesystem::path path(text);
  if (text.empty() || path.is_absolute()) return false;
  return std::none_of(path.begin(), path.end(), [](const std::filesystem::path& part) { return part == ".."; });
}

Json ToJson(const Manifest& manifest, const std::string& file) {
  // Sorted keys, so that what the caller put together in another order gives the same bytes.
  const nlohmann::json extra = nlohmann::json::parse(manifest.extra_json, nullptr, /*allow_exceptions=*/false);
  if (!extra.is_object()) throw Error(ErrorCode::kInvalidArgument, "extra_json is not a JSON object", {.file = file});
  Json files = Json::array();
  std::vector<ManifestFile> sorted = manifest.files;
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  for (const ManifestFile& entry : sorted) {
    if (!StaysInside(entry.path)) {
      throw Error(ErrorCode::kInvalidArgument, "path '" + entry.path + "' leaves the directory", {.file = file});
    }
    files.push_back({{"path", entry.path}, {"bytes", entry.bytes}, {"checksum", entry.checksum}});
  }
  Json json;
  json["format"] = "arrow-quant";
  json["format_version"] = manifest.format_version;
  json["product_version"] = manifest.product_version;
  json["fingerprints"] = manifest.fingerprints;
  json["files"] = std::move(files);
  json["extra"] = extra;
  return json;
}

Manifest FromJson(const nlohmann::json& json, const std::string& file) {
  Manifest manifest;
  if (json.at("format") != "arrow-quant") {
    throw Error(ErrorCode::kCorruptFile, "the manifest is not of this program", {.file = file});
  }
  manifest.format_version = json.at("format_version").get<int>();
  if (manifest.format_version > kFormatVersion || manifest.format_version < 1) {
    throw Error(ErrorCode::kUnsupported, "format version " + std::to_string(manifest.format_version) + " is not known",
                {.file = file, .remedy = "Install a newer version of this program."});
  }
  manifest.product_version = json.at("product_version").get<std::string>();
  manifest.fingerprints = json.at("fingerprints").get<std::map<std::string, std::string>>();
  manifest.extra_json = json.at("extra").dump();
  for (const nlohmann::json& entry : json.at("files")) {
    if (!entry.at("bytes").is_number_unsigned()) {
      throw Error(ErrorCode::kCorruptFile, "a file's size is not a whole number", {.file = file});
    }
    manifest.files.push_back({entry.at("path").get<std::string>(), entry.at("bytes").get<std::uint64_t>(),
                              entry.at("checksum").get<std::string>()});
    if (!StaysInside(manifest.files.back().path)) {
      throw Error(ErrorCode::kCorruptFile, "path '" + manifest.files.back().path + "' leaves the directory",
                  {.file = file});
    }
  }
  return manifest;
}

std::optional<std::string> Problem(const std::filesystem::path& directory, const ManifestFile& entry,
                                   VerifyDepth depth) {
  const std::filesystem::path path = directory / std::filesystem::path(entry.path);
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return entry.path + " is missing or unreadable: " + error.message() + ".";
  if (size != entry.bytes) {
    return entry.path + " has " + std::to_string(size) + " bytes instead of " + std::to_string(entry.bytes) + ".";
  }
  if (depth == VerifyDepth::kSizes) return std::nullopt;
  const std::string checksum = ChecksumFile(path);
  if (checksum != entry.checksum)
    return entry.path + " has checksum " + checksum + " instead of " + entry.checksum + ".";
  return std::nullopt;
}

}  // namespace

ManifestFile DescribeFile(const std::filesystem::path& directory, const std::string& path) {
  ManifestFile entry{path, 0, ""};
  Xxh64 hash;
  ForEachBlock(directory / std::filesystem::path(path), [&](const void* data, std::size_t size) {
    hash.Update(data, size);
    entry.bytes += size;
  });
  entry.checksum = FormatChecksum(hash.Digest());
  return entry;
}

void WriteManifest(const std::filesystem::path& directory, const Manifest& manifest) {
  const std::filesystem::path path = directory / kManifestName;
  std::string text;
  try {
    text = ToJson(manifest, path.string()).dump(2) + "\n";
  } catch (const nlohmann::json::exception& e) {
    throw Error(ErrorCode::kInvalidArgument, e.what(), {.file = path.string()});
  }
  WriteFileAtomically(path, text);
}

Manifest ReadManifest(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kManifestName;
  try {
    return FromJson(nlohmann::json::parse(ReadSmallFile(path, kMaxManifestBytes)), path.string());
  } catch (const nlohmann::json::exception& e) {
    throw Error(ErrorCode::kCorruptFile, std::string("the manifest is malformed: ") + e.what(),
                {.file = path.string(), .remedy = "Write the model again."});
  }
}

std::vector<std::string> VerifyManifest(const std::filesystem::path& directory, VerifyDepth depth) {
  std::vector<std::string> problems;
  for (const ManifestFile& entry : ReadManifest(directory).files) {
    if (std::optional<std::string> problem = Problem(directory, entry, depth)) problems.push_back(*std::move(problem));
  }
  return problems;
}

}  // namespace arrow_quant
