#include "arrow_quant/io/json_internal.h"

#include <array>
#include <cctype>
#include <system_error>
#include <unordered_set>
#include <utility>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/text.h"
#include "arrow_quant/io/mmap_file.h"
#include "arrow_quant/io/utf8.h"

namespace arrow_quant {
namespace {

constexpr std::size_t kMaxDepth = 100;

[[noreturn]] void Fail(const std::string& file, std::string message, std::string remedy) {
  throw Error(ErrorCode::kCorruptFile, std::move(message), {.file = file, .remedy = std::move(remedy)});
}

// Walks the text without building anything and notes the first thing that is wrong with it.
class Checker final : public nlohmann::json::json_sax_t {
 public:
  explicit Checker(bool duplicate_keys) : duplicate_keys_(duplicate_keys) {}
  const std::string& fault() const { return fault_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return Open(); }
  bool start_array(std::size_t) override { return Open(); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    if (duplicate_keys_ || keys_.back().insert(name).second) return true;
    fault_ = "the key '" + Shortened(name, 80) + "' is there twice";
    return false;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    fault_ = "not valid JSON: it goes wrong at byte " + std::to_string(position);
    return false;
  }

 private:
  bool Open() {
    keys_.emplace_back();
    if (keys_.size() > kMaxDepth) fault_ = "nested deeper than " + std::to_string(kMaxDepth) + " levels";
    return fault_.empty();
  }
  bool Close() {
    keys_.pop_back();
    return true;
  }

  bool duplicate_keys_;
  std::string fault_;
  std::vector<std::unordered_set<std::string>> keys_;
};

// Bare NaN and Infinity outside of strings become null.
std::string WithoutNonFinite(std::string_view text) {
  constexpr std::array<std::string_view, 3> kLiterals = {"-Infinity", "Infinity", "NaN"};
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\' && i + 1 < text.size()) {
      out += text[i++];
    } else if (text[i] == '"') {
      in_string = !in_string;
    } else if (!in_string) {
      std::size_t skipped = 0;
      for (const std::string_view literal : kLiterals) {
        if (skipped == 0 && text.substr(i).starts_with(literal)) skipped = literal.size();
      }
      if (skipped != 0) {
        out += "null";
        i += skipped - 1;
        continue;
      }
    }
    out += text[i];
  }
  return out;
}

}  // namespace

std::string ReadTextFile(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(path, ignored) && std::filesystem::file_size(path, ignored) == 0) return {};
  const MmapFile file(path);
  if (file.bytes().size() > kMaxJsonBytes) Fail(path.string(), "larger than a JSON file of a model can be", {});
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

nlohmann::json ParseJson(std::string_view text, const std::string& file, JsonDialect dialect) {
  if (text.starts_with("version https://git-lfs.github.com/spec/")) {
    Fail(file, "this is a Git LFS pointer, not the file",
         "Run `git lfs install && git lfs pull` in the model's folder.");
  }
  if (!IsValidUtf8(text)) Fail(file, "not valid UTF-8", "Save the file as UTF-8.");
  const std::string replaced = dialect.non_finite ? WithoutNonFinite(text) : std::string();
  const std::string_view json = dialect.non_finite ? std::string_view(replaced) : text;
  Checker checker(dialect.duplicate_keys);
  const bool has_nul = json.find('\0') != std::string_view::npos;
  if (has_nul || !nlohmann::json::sax_parse(json.begin(), json.end(), &checker)) {
    Fail(file, has_nul ? "not valid JSON: it has a NUL byte" : checker.fault(),
         "Repair the file or download it again.");
  }
  return nlohmann::json::parse(json.begin(), json.end(), nullptr, false);
}

std::string StringAt(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace arrow_quant
