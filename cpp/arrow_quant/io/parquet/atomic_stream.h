#pragma once

// Includes Arrow: only the .cc files of io/parquet include this.

#include <arrow/io/interfaces.h>
#include <arrow/result.h>
#include <arrow/status.h>

#include <cstdint>
#include <exception>

#include "arrow_quant/io/atomic_file.h"

namespace arrow_quant {

// Hands Arrow's bytes to an AtomicFile. The first failure is kept with its type and stops everything after it, so that
// Arrow's destructors cannot append a footer to a broken file.
class AtomicFileStream : public arrow::io::OutputStream {
 public:
  explicit AtomicFileStream(AtomicFile* file) : file_(file) { set_mode(arrow::io::FileMode::WRITE); }

  arrow::Status Write(const void* data, std::int64_t size) override {
    if (failure_ != nullptr || closed_) return arrow::Status::IOError("the output is closed");
    try {
      file_->Append(data, static_cast<std::size_t>(size));
    } catch (...) {
      failure_ = std::current_exception();
      return arrow::Status::IOError("the output failed");
    }
    return arrow::Status::OK();
  }
  arrow::Status Close() override {
    closed_ = true;
    return arrow::Status::OK();
  }
  arrow::Result<std::int64_t> Tell() const override { return static_cast<std::int64_t>(file_->bytes()); }
  bool closed() const override { return closed_; }

  void RethrowFailure() const {
    if (failure_ != nullptr) std::rethrow_exception(failure_);
  }

 private:
  AtomicFile* file_;
  std::exception_ptr failure_;
  bool closed_ = false;
};

}  // namespace arrow_quant
