#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

// For .cc files only: public headers do not depend on the JSON library.
namespace arrow_quant {

// What to accept beyond strict JSON. Configuration files are written by Python, which allows both.
struct JsonDialect {
  bool duplicate_keys = false;  // the last one counts
  bool non_finite = false;      // bare NaN, Infinity and -Infinity, read as null
};

inline constexpr JsonDialect kPythonJson = {.duplicate_keys = true, .non_finite = true};
inline constexpr std::size_t kMaxJsonBytes = 256U << 20U;

// The whole file as text. Throws what MmapFile throws (an empty file gives ""), and kCorruptFile above kMaxJsonBytes.
std::string ReadTextFile(const std::filesystem::path& path);

// Parses `text`, the content of `file`. Throws kCorruptFile naming the file for a Git LFS pointer, text that is not
// UTF-8 or not JSON, nesting deeper than 100, and a duplicate key.
nlohmann::json ParseJson(std::string_view text, const std::string& file, JsonDialect dialect = {});

// The string at object[key], or "" when there is none.
std::string StringAt(const nlohmann::json& object, const char* key);

}  // namespace arrow_quant
