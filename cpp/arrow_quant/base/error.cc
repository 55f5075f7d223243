#include "arrow_quant/base/error.h"

#include <utility>

namespace arrow_quant {
namespace {

std::string Format(const std::string& message, const ErrorContext& context) {
  std::string text;
  if (!context.file.empty()) text += context.file + ": ";
  if (!context.tensor.empty()) text += "tensor '" + context.tensor + "': ";
  text += message;
  if (!context.remedy.empty()) text += ". " + context.remedy;
  return text;
}

}  // namespace

std::string_view ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid_argument";
    case ErrorCode::kConfiguration:
      return "configuration";
    case ErrorCode::kModelNotFound:
      return "model_not_found";
    case ErrorCode::kMetadata:
      return "metadata";
    case ErrorCode::kCorruptFile:
      return "corrupt_file";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kShapeMismatch:
      return "shape_mismatch";
    case ErrorCode::kQuantization:
      return "quantization";
    case ErrorCode::kValidation:
      return "validation";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kResource:
      return "resource";
    case ErrorCode::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

Error::Error(ErrorCode code, std::string message, ErrorContext context)
    : code_(code), message_(std::move(message)), context_(std::move(context)), what_(Format(message_, context_)) {}

}  // namespace arrow_quant
