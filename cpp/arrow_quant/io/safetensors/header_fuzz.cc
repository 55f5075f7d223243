// The header of a safetensors file from any bytes.

#include "arrow_quant/base/fuzz_support.h"
#include "arrow_quant/io/safetensors/header.h"

namespace {

using arrow_quant::SafetensorsHeader;
using arrow_quant::TensorInfo;
using arrow_quant::fuzz::Require;

// What every accepted header promises to those who read the tensors.
void CheckAccepted(const SafetensorsHeader& header, std::uint64_t file_size) {
  std::int64_t end = static_cast<std::int64_t>(header.header_bytes);
  for (const TensorInfo& info : header.tensors) {
    Require(info.offset == end, "the data follow each other");
    Require(info.num_bytes == info.num_elements * static_cast<std::int64_t>(ByteSize(info.dtype)), "bytes and dtype");
    end += info.num_bytes;
  }
  Require(static_cast<std::uint64_t>(end) == file_size, "the data fill the file");
}

// The parser promises to look at nothing behind the header.
void CheckPrefix(const SafetensorsHeader& whole, std::span<const std::byte> file) {
  const SafetensorsHeader prefix =
      arrow_quant::ParseSafetensorsHeader(file.first(static_cast<std::size_t>(whole.header_bytes)), file.size());
  Require(prefix.ok() && prefix.tensors.size() == whole.tensors.size(), "the header alone gives the same");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span file(reinterpret_cast<const std::byte*>(data), size);
  const SafetensorsHeader header = arrow_quant::ParseSafetensorsHeader(file, size);
  Require(header.ok() == header.detail.empty(), "a fault says what is wrong");
  Require(header.ok() || header.tensors.empty(), "a fault gives no tensors");
  if (!header.ok()) return 0;
  CheckAccepted(header, size);
  CheckPrefix(header, file);
  return 0;
}
