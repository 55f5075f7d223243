#include "arrow_quant/orchestrate/tensor_quantizer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/numeric/convert.h"
#include "arrow_quant/quantize/base_quantizer.h"

namespace arrow_quant {
namespace {

// Weights in one block: large enough to hide the hand-over, small enough for the cache and for a bar that moves.
constexpr std::int64_t kBlockWeights = std::int64_t{1} << 17;

void Convert(DType dtype, const std::byte* in, std::int64_t n, float* out) {
  switch (dtype) {
    case DType::kF16:
      Kernels().f16_to_f32(in, static_cast<std::size_t>(n), out);
      return;
    case DType::kBF16:
      Kernels().bf16_to_f32(in, static_cast<std::size_t>(n), out);
      return;
    default:
      ToFloat32(dtype, in, n, out);
  }
}

// Independent of the number of threads, so that sums are added in the same order everywhere.
std::int64_t RowsPerBlock(std::int64_t cols) {
  const std::int64_t rows = std::max<std::int64_t>(1, kBlockWeights / std::max<std::int64_t>(cols, 1));
  return (rows + kRowBlockMultiple - 1) / kRowBlockMultiple * kRowBlockMultiple;
}

struct Attempt {
  QuantizedMatrix matrix;
  ErrorSums sums;
  std::int64_t constant_groups = 0;
  std::int64_t non_finite_at = -1;
};

struct TensorView {
  const TensorInfo& info;
  std::span<const std::byte> bytes;
  const MatrixShape& matrix;
};

Attempt TryBits(const TensorView& tensor, int bits, const ModelOptions& options,
                const std::function<void(std::int64_t)>& progress, const std::stop_token& stop) {
  const MatrixShape& shape = tensor.matrix;
  Attempt attempt;
  attempt.matrix = AllocateQuantized(shape.rows, shape.cols, {.bits = bits, .group_size = options.group_size});
  const std::int64_t block = RowsPerBlock(shape.cols);
  const std::int64_t blocks = (shape.rows + block - 1) / block;
  std::vector<BlockReport> reports(static_cast<std::size_t>(blocks));
  std::atomic<std::int64_t> done{0};
  ThreadPool::Shared().ParallelFor(
      blocks, options.num_threads,
      [&](std::int64_t b) {
        const std::int64_t begin = b * block;
        const std::int64_t count = std::min(block, shape.rows - begin);
        AlignedVector<float> w(static_cast<std::size_t>(count * shape.cols));
        ReadMatrixRows(tensor.info, tensor.bytes, shape, begin, count, w.data());
        reports[static_cast<std::size_t>(b)] =
            QuantizeRowBlock({w.data(), count, shape.cols}, options.fit, begin, attempt.matrix);
        progress(done += count * shape.cols);
      },
      stop);
  for (std::int64_t b = 0; b < blocks; ++b) {
    const BlockReport& report = reports[static_cast<std::size_t>(b)];
    if (report.non_finite_at && attempt.non_finite_at < 0) {
      attempt.non_finite_at = b * block * shape.cols + *report.non_finite_at;
    }
    attempt.constant_groups += report.constant_groups;
    attempt.sums.ww += report.sums.ww;
    attempt.sums.wq += report.sums.wq;
    attempt.sums.qq += report.sums.qq;
    attempt.sums.ee += report.sums.ee;
  }
  return attempt;
}

TensorReport BaseReport(const TensorInfo& info, const TensorDecision& decision) {
  TensorReport report;
  report.name = info.name;
  report.dtype = TorchName(info.dtype);
  report.shape = info.shape;
  report.role = LayerRoleName(decision.role);
  report.num_params = info.num_elements;
  report.source_bytes = info.num_bytes;
  return report;
}

void MarkKept(TensorReport& report, std::string reason) {
  report.quantized = false;
  report.bits = 0;
  report.method = "kept";
  report.reason = std::move(reason);
  report.cosine = 1;
  report.sqnr_db = 200;
  report.stored_bytes = report.source_bytes;
}

void FillQuantized(const Attempt& attempt, const ModelOptions& options, TensorReport& report) {
  const QuantizedMatrix& m = attempt.matrix;
  report.quantized = true;
  report.bits = m.bits;
  report.group_size = m.group_size;
  report.tail = m.cols - (m.groups() - 1) * m.group_size;
  report.method = options.fit == GridFit::kFitted ? "fitted" : "min_max";
  report.cosine = Cosine(attempt.sums);
  report.sqnr_db = SqnrDb(attempt.sums);
  report.constant_groups = attempt.constant_groups;
  report.stored_bytes = static_cast<std::int64_t>(m.codes.size() + 8 * m.scales.size());
}

std::string BelowThreshold(double cosine, int bits, double least) {
  char text[128];
  std::snprintf(text, sizeof(text), "weight cosine %.4f at %d bits is below min_accuracy %.4f", cosine, bits, least);
  return text;
}

int NextBits(int bits) { return bits < 4 ? 4 : bits < 8 ? 8 : 16; }

TensorOutcome HandleNonFinite(const TensorInfo& info, const ModelOptions& options, std::int64_t at,
                              TensorReport report) {
  const std::string cause = "NaN or Inf at flat index " + std::to_string(at) + " of its matrix view";
  if (options.on_nonfinite == OnNonFinite::kError) {
    throw Error(ErrorCode::kQuantization, cause,
                {.tensor = info.name,
                 .remedy = "Repair the checkpoint, or use --on-nonfinite keep to keep this tensor as it is."});
  }
  MarkKept(report, cause);
  return {{}, {}, std::move(report)};
}

}  // namespace

double Cosine(const ErrorSums& sums) {
  if (sums.ee == 0) return 1;
  const double norm = std::sqrt(sums.ww) * std::sqrt(sums.qq);
  return norm > 0 ? std::clamp(sums.wq / norm, -1.0, 1.0) : 0;
}

double SqnrDb(const ErrorSums& sums) {
  if (sums.ee == 0) return 200;
  return sums.ww > 0 ? std::min(200.0, 10 * std::log10(sums.ww / sums.ee)) : 0;
}

void ReadMatrixRows(const TensorInfo& info, std::span<const std::byte> bytes, const MatrixShape& matrix,
                    std::int64_t begin, std::int64_t count, float* out) {
  const auto element = static_cast<std::int64_t>(ByteSize(info.dtype));
  if (matrix.quant_axis == 0) {
    Convert(info.dtype, bytes.data() + begin * matrix.cols * element, count * matrix.cols, out);
    return;
  }
  // [in, out, k...]: row o takes k values from every input channel.
  const std::int64_t inputs = info.shape[0];
  const std::int64_t outputs = info.shape[1];
  const std::int64_t k = matrix.cols / std::max<std::int64_t>(inputs, 1);
  for (std::int64_t r = begin; r < begin + count; ++r) {
    for (std::int64_t i = 0; i < inputs; ++i, out += k) {
      Convert(info.dtype, bytes.data() + (i * outputs + r) * k * element, k, out);
    }
  }
}

TensorOutcome QuantizeTensor(const TensorInfo& info, std::span<const std::byte> bytes, const TensorDecision& decision,
                             int bit_width, const ModelOptions& options,
                             const std::function<void(std::int64_t)>& progress, const std::stop_token& stop) {
  TensorReport report = BaseReport(info, decision);
  if (!decision.quantize) {
    MarkKept(report, decision.reason);
    return {{}, {}, std::move(report)};
  }
  const TensorView view{info, bytes, decision.matrix};
  for (int bits = bit_width;;) {
    Attempt attempt = TryBits(view, bits, options, progress, stop);
    if (attempt.non_finite_at >= 0) return HandleNonFinite(info, options, attempt.non_finite_at, std::move(report));
    FillQuantized(attempt, options, report);
    if (!report.fallbacks.empty()) report.fallbacks.back().cosine_after = report.cosine;
    if (report.cosine >= options.min_accuracy) return {std::move(attempt.matrix), attempt.sums, std::move(report)};
    const std::string cause = BelowThreshold(report.cosine, bits, options.min_accuracy);
    if (options.fail_fast || !options.fallback) {
      throw Error(ErrorCode::kValidation, cause,
                  {.tensor = info.name, .remedy = "Use more bits or a smaller group, or allow the fallback."});
    }
    const int next = NextBits(bits);
    report.fallbacks.push_back({info.name, bits, next, cause, report.cosine, 1});
    if (next == 16) {
      MarkKept(report, cause);
      return {{}, {}, std::move(report)};
    }
    bits = next;
  }
}

}  // namespace arrow_quant
