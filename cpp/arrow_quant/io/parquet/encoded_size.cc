#include "arrow_quant/io/parquet/encoded_size.h"

#include <arrow/util/compression.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "arrow_quant/io/parquet/arrow_status.h"
#include "arrow_quant/io/parquet/model_writer.h"
#include "arrow_quant/io/parquet/tensor_record.h"

namespace arrow_quant {
namespace {

// Compressed; measured on models with ten time groups.
constexpr std::uint64_t kRowBytes = 100;
constexpr std::uint64_t kReportBytes = 600;
constexpr std::uint64_t kRowGroupBytes = 3700;  // see WriterOptions

std::unique_ptr<arrow::util::Codec> MakeCodec() {
  return ValueOrThrow(arrow::util::Codec::Create(arrow::Compression::ZSTD, WriterOptions{}.zstd_level), "zstd",
                      ErrorCode::kResource);
}

std::uint64_t Compressed(arrow::util::Codec& codec, std::span<const std::uint8_t> bytes,
                         std::vector<std::uint8_t>& buffer) {
  const auto size = static_cast<std::int64_t>(bytes.size());
  buffer.resize(static_cast<std::size_t>(codec.MaxCompressedLen(size, bytes.data())));
  return static_cast<std::uint64_t>(
      ValueOrThrow(codec.Compress(size, bytes.data(), static_cast<std::int64_t>(buffer.size()), buffer.data()), "zstd",
                   ErrorCode::kResource));
}

}  // namespace

std::uint64_t EncodedBytes(std::span<const std::byte> data) {
  const auto codec = MakeCodec();
  std::vector<std::uint8_t> buffer;
  std::uint64_t total = 0;
  for (std::size_t begin = 0; begin < data.size(); begin += kPreferredCellBytes) {
    const auto piece = data.subspan(begin, std::min<std::size_t>(kPreferredCellBytes, data.size() - begin));
    total += Compressed(*codec, {reinterpret_cast<const std::uint8_t*>(piece.data()), piece.size()}, buffer);
  }
  return total;
}

// BYTE_STREAM_SPLIT: the first bytes of all values, then the second ones, and so on.
std::uint64_t EncodedBytes(std::span<const float> values) {
  const auto bytes = std::as_bytes(values);
  std::vector<std::byte> split(bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    split[i % sizeof(float) * values.size() + i / sizeof(float)] = bytes[i];
  }
  return EncodedBytes(std::span<const std::byte>(split));
}

std::uint64_t EncodedRowOverhead(std::uint64_t cell_bytes, bool report) {
  const WriterOptions options;
  const std::uint64_t row = kRowBytes + (report ? kReportBytes : 0);
  if (cell_bytes >= options.small_record_bytes) return row + kRowGroupBytes;
  return row + kRowGroupBytes * cell_bytes / options.row_group_bytes;
}

}  // namespace arrow_quant
