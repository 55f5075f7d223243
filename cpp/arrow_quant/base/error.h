#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace arrow_quant {

// What kind of failure an Error is. Python maps each to an exception class and the command line to an exit code.
enum class ErrorCode {
  kInvalidArgument,  // an argument outside its documented range
  kConfiguration,    // a configuration key or value
  kModelNotFound,    // no model at the path
  kMetadata,         // the model's modality or architecture cannot be told
  kCorruptFile,      // a file breaks its own format
  kUnsupported,      // a valid file or request that this program does not handle
  kShapeMismatch,    // shapes that must agree do not
  kQuantization,     // a tensor cannot be quantized (NaN, Inf)
  kValidation,       // quality below the threshold
  kIo,               // the operating system refused
  kResource,         // memory or disk limit
  kCancelled,        // the caller asked to stop
};

// Stable lower-case name of `code`, for example "corrupt_file".
std::string_view ErrorCodeName(ErrorCode code);

// Where an error happened and what to do. Empty strings are left out of the message.
struct ErrorContext {
  std::string file = {};
  std::string tensor = {};
  std::string remedy = {};  // a full sentence
};

// The one exception of the C++ core. Kernels are noexcept and never throw it.
class Error : public std::exception {
 public:
  Error(ErrorCode code, std::string message, ErrorContext context = {});

  ErrorCode code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }
  const ErrorContext& context() const noexcept { return context_; }

  // "file: tensor 'name': message. Remedy."
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  ErrorCode code_;
  std::string message_;
  ErrorContext context_;
  std::string what_;
};

}  // namespace arrow_quant
