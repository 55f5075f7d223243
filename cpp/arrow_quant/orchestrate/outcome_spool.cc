#include "arrow_quant/orchestrate/outcome_spool.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <tuple>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/atomic_file.h"
#include "arrow_quant/io/checksum.h"
#include "arrow_quant/orchestrate/byte_archive.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

struct RecordHeader {
  std::uint64_t length = 0;  // 0: not complete
  std::uint64_t checksum = 0;
};

// Small pieces are gathered, large ones go to the file as they are.
constexpr std::size_t kBufferBytes = std::size_t{1} << 16;

}  // namespace

// Structs as tuples of their members, for Transfer: found by argument-dependent lookup, hence not in the namespace
// above. T is the struct or its const.
template <typename T, typename Struct>
concept Is = std::is_same_v<std::remove_const_t<T>, Struct>;

template <Is<Fallback> T>
auto Members(T& value) {
  auto& [layer, from_bits, to_bits, from_method, to_method, cause, before, after] = value;
  return std::tie(layer, from_bits, to_bits, from_method, to_method, cause, before, after);
}

template <Is<TimeGroupQuality> T>
auto Members(T& value) {
  auto& [from, to, rows, cosine, sqnr_db] = value;
  return std::tie(from, to, rows, cosine, sqnr_db);
}

template <Is<ActivationReport> T>
auto Members(T& value) {
  auto& [method, ranges, error, shared_error, bits_per_weight, smoothness, jumps] = value;
  return std::tie(method, ranges, error, shared_error, bits_per_weight, smoothness, jumps);
}

template <Is<CorrectionReport> T>
auto Members(T& value) {
  auto& [kind, error_before, error_after, bits_per_weight] = value;
  return std::tie(kind, error_before, error_after, bits_per_weight);
}

template <Is<TargetReport> T>
auto Members(T& value) {
  auto& [corrected, inherited, error] = value;
  return std::tie(corrected, inherited, error);
}

template <Is<SpatialReport> T>
auto Members(T& value) {
  auto& [wanted, demanded, equalization, alpha, shift, rotation, error, plain_error, producer] = value;
  return std::tie(wanted, demanded, equalization, alpha, shift, rotation, error, plain_error, producer);
}

template <Is<OutputCorrection> T>
auto Members(T& value) {
  auto& [gains, biases] = value;
  return std::tie(gains, biases);
}

template <Is<TensorReport> T>
auto Members(T& value) {
  auto& [name, component, dtype, shape, role, quantized, bits, group_size, tail, method, grid, column_scales, reason,
         cosine, sqnr_db, calibrated, output_cosine, output_sqnr_db, time_groups, dampening, non_finite_rows,
         constant_groups, num_params, source_bytes, stored_bytes, activations, spatial, correction, target, fallbacks] =
      value;
  return std::tie(name, component, dtype, shape, role, quantized, bits, group_size, tail, method, grid, column_scales,
                  reason, cosine, sqnr_db, calibrated, output_cosine, output_sqnr_db, time_groups, dampening,
                  non_finite_rows, constant_groups, num_params, source_bytes, stored_bytes, activations, spatial,
                  correction, target, fallbacks);
}

template <Is<ErrorSums> T>
auto Members(T& value) {
  auto& [ww, wq, qq, ee] = value;
  return std::tie(ww, wq, qq, ee);
}

template <Is<QuantizedMatrix> T>
auto Members(T& value) {
  auto& [rows, cols, bits, group_size, grid, codes, scales, zero_points, residual_scales, rotation_seed,
         column_scales] = value;
  return std::tie(rows, cols, bits, group_size, grid, codes, scales, zero_points, residual_scales, rotation_seed,
                  column_scales);
}

template <Is<InputLayout> T>
auto Members(T& value) {
  auto& [inputs, channels, taps] = value;
  return std::tie(inputs, channels, taps);
}

template <Is<ActivationTable> T>
auto Members(T& value) {
  auto& [layout, boundaries, block_sizes, scales, zero_points, shift] = value;
  return std::tie(layout, boundaries, block_sizes, scales, zero_points, shift);
}

template <Is<TensorOutcome> T>
auto Members(T& value) {
  auto& [matrix, sums, report, activations, correction, correction_boundaries, replacement] = value;
  return std::tie(matrix, sums, report, activations, correction, correction_boundaries, replacement);
}

template <Is<FinishedTensor> T>
auto Members(T& value) {
  auto& [sums, report] = value;
  return std::tie(sums, report);
}

template <Is<FinishedFile> T>
auto Members(T& value) {
  auto& [name, bytes, checksum, records, tensors] = value;
  return std::tie(name, bytes, checksum, records, tensors);
}

namespace {

void WriteAt(int fd, const void* data, std::size_t size, std::uint64_t at, const fs::path& path) {
  const auto* p = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::pwrite(fd, p, size, static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) ThrowErrno(written < 0 ? errno : EIO, "cannot write", path);
    p += written;
    at += static_cast<std::uint64_t>(written);
    size -= static_cast<std::size_t>(written);
  }
}

// Puts values into a file from `begin` on.
class FileArchive {
 public:
  static constexpr bool kReading = false;

  FileArchive(int fd, std::uint64_t begin, const fs::path& path) : fd_(fd), at_(begin), path_(path) {}

  void Bytes(const void* data, std::size_t size) {
    hash_.Update(data, size);
    length_ += size;
    if (buffer_.size() + size > kBufferBytes) Flush();
    if (size > kBufferBytes) {
      Write(data, size);
    } else {
      buffer_.append(static_cast<const char*>(data), size);
    }
  }
  RecordHeader Finish() {
    Flush();
    return {length_, hash_.Digest()};
  }

 private:
  void Flush() {
    Write(buffer_.data(), buffer_.size());
    buffer_.clear();
  }
  void Write(const void* data, std::size_t size) {
    WriteAt(fd_, data, size, at_, path_);
    at_ += size;
  }

  int fd_;
  std::uint64_t at_;
  const fs::path& path_;
  std::string buffer_;
  Xxh64 hash_;
  std::uint64_t length_ = 0;
};

class StringArchive {
 public:
  static constexpr bool kReading = false;

  void Bytes(const void* data, std::size_t size) { text_.append(static_cast<const char*>(data), size); }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// The bytes of the record at `begin`; nothing when there is no whole and undamaged one.
std::optional<std::span<const std::byte>> RecordAt(std::span<const std::byte> bytes, std::uint64_t begin) {
  RecordHeader header;
  if (begin > bytes.size() || bytes.size() - begin < sizeof header) return std::nullopt;
  std::memcpy(&header, bytes.data() + begin, sizeof header);
  const auto rest = bytes.subspan(begin + sizeof header);
  if (header.length == 0 || header.length > rest.size()) return std::nullopt;
  const auto record = rest.first(header.length);
  Xxh64 hash;
  hash.Update(record.data(), record.size());
  if (hash.Digest() != header.checksum) return std::nullopt;
  return record;
}

}  // namespace

OutcomeSpool::OutcomeSpool(fs::path path, std::uint64_t valid_bytes) : path_(std::move(path)), end_(valid_bytes) {
  fd_ = ::open(path_.c_str(), O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (fd_ < 0) ThrowErrno(errno, "cannot create", path_);
  if (::ftruncate(fd_, static_cast<off_t>(valid_bytes)) == 0) return;
  const int error = errno;
  ::close(fd_);
  ThrowErrno(error, "cannot cut", path_);
}

OutcomeSpool::~OutcomeSpool() { ::close(fd_); }

void OutcomeSpool::Append(const TensorOutcome& outcome) {
  FileArchive archive(fd_, end_ + sizeof(RecordHeader), path_);
  Transfer(archive, outcome);
  const RecordHeader header = archive.Finish();
  WriteAt(fd_, &header, sizeof header, end_, path_);
  end_ += sizeof header + header.length;
}

OutcomeSpoolReader::OutcomeSpoolReader(const fs::path& path) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (!error && size > 0) file_.emplace(path);
}

std::optional<TensorOutcome> OutcomeSpoolReader::Next() {
  if (!file_) return std::nullopt;
  const auto record = RecordAt(file_->bytes(), valid_bytes_);
  if (!record) return std::nullopt;
  TensorOutcome outcome;
  ByteReader reader(*record);
  Transfer(reader, outcome);
  const std::uint64_t length = sizeof(RecordHeader) + record->size();
  file_->Release(valid_bytes_, length);
  valid_bytes_ += length;
  return outcome;
}

void SaveFinishedFile(const FinishedFile& file, const fs::path& path) {
  StringArchive archive;
  Transfer(archive, file);
  const std::string& body = archive.text();
  Xxh64 hash;
  hash.Update(body.data(), body.size());
  const RecordHeader header{body.size(), hash.Digest()};
  std::string text(reinterpret_cast<const char*>(&header), sizeof header);
  WriteFileAtomically(path, text + body);
}

std::optional<FinishedFile> LoadFinishedFile(const fs::path& path) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error || size == 0) return std::nullopt;
  const MmapFile mapped(path);
  const auto record = RecordAt(mapped.bytes(), 0);
  if (!record) return std::nullopt;
  FinishedFile file;
  ByteReader reader(*record);
  Transfer(reader, file);
  return file;
}

}  // namespace arrow_quant
