#include "arrow_quant/io/safetensors/safetensors_file.h"

#include <cstddef>

namespace arrow_quant {
namespace {

std::string RemedyFor(SafetensorsFault fault) {
  switch (fault) {
    case SafetensorsFault::kGitLfsPointer:
      return "Run `git lfs install && git lfs pull` in the model's folder.";
    case SafetensorsFault::kFileTooShort:
    case SafetensorsFault::kHeaderPastEnd:
    case SafetensorsFault::kOffsetsPastEnd:
      return "Download the file again; the download was probably interrupted.";
    case SafetensorsFault::kForeignFormat:
      return "Download the .safetensors file, or convert the model with its own library's save_pretrained.";
    case SafetensorsFault::kUnknownDtype:
      return "Give the original float model (F32, F16, BF16).";
    default:
      return "Download the file again, or write it anew with the safetensors library.";
  }
}

}  // namespace

Error SafetensorsError(const SafetensorsHeader& header, const std::filesystem::path& path) {
  const bool unsupported = header.fault == SafetensorsFault::kUnknownDtype;
  return Error(unsupported ? ErrorCode::kUnsupported : ErrorCode::kCorruptFile,
               header.detail + " (" + std::string(SafetensorsFaultName(header.fault)) + ")",
               {.file = path.string(), .tensor = header.tensor, .remedy = RemedyFor(header.fault)});
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(path), header_(ParseSafetensorsHeader(file_.bytes(), file_.stamp().size)) {
  if (!header_.ok()) throw SafetensorsError(header_, path);
}

std::span<const std::byte> SafetensorsFile::Data(const TensorInfo& info) const {
  return file_.bytes().subspan(static_cast<std::size_t>(info.offset), static_cast<std::size_t>(info.num_bytes));
}

}  // namespace arrow_quant
