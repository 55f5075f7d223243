#pragma once

// Arrow's and Parquet's errors as ours. Includes Arrow: only the .cc files of io/parquet include this.

#include <arrow/result.h>
#include <arrow/status.h>
#include <parquet/exception.h>

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "arrow_quant/base/error.h"

namespace arrow_quant {

// What an Arrow failure means: when reading, the file is at fault; when writing, the system is.
[[noreturn]] inline void ThrowStatus(const arrow::Status& status, const std::string& file, ErrorCode otherwise) {
  ErrorCode code = otherwise;
  if (status.IsOutOfMemory() || status.IsCapacityError()) code = ErrorCode::kResource;
  throw Error(code, status.message(), {.file = file});
}

inline void CheckStatus(const arrow::Status& status, const std::string& file, ErrorCode otherwise) {
  if (!status.ok()) ThrowStatus(status, file, otherwise);
}

template <typename T>
T ValueOrThrow(arrow::Result<T> result, const std::string& file, ErrorCode otherwise) {
  if (!result.ok()) ThrowStatus(result.status(), file, otherwise);
  return std::move(result).ValueUnsafe();
}

// Run body(), with exceptions of the Parquet library and of the allocator made ours.
template <typename Body>
auto WithArrowErrors(const std::string& file, ErrorCode otherwise, Body&& body) {
  try {
    return body();
  } catch (const Error&) {
    throw;
  } catch (const parquet::ParquetStatusException& e) {
    ThrowStatus(e.status(), file, otherwise);
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::kResource, "not enough memory", {.file = file});
  } catch (const std::exception& e) {
    throw Error(otherwise, e.what(), {.file = file});
  }
}

}  // namespace arrow_quant
