#include "arrow_quant/orchestrate/tensor_quantizer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/io/checksum.h"
#include "arrow_quant/io/parquet/encoded_size.h"
#include "arrow_quant/numeric/convert.h"
#include "arrow_quant/orchestrate/activation_tables.h"
#include "arrow_quant/orchestrate/calibrated_rounding.h"
#include "arrow_quant/orchestrate/layer_activations.h"
#include "arrow_quant/orchestrate/time_correction.h"
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

// Nearest rounding takes over where its error is below this part of the other's: with uncorrelated inputs the two are
// equal but for the noise of held-out rows.
constexpr double kClearlyBetter = 0.9;

struct Attempt {
  QuantizedMatrix matrix;
  ErrorSums sums;
  std::string method;
  std::int64_t constant_groups = 0;
  std::int64_t non_finite_at = -1;
  std::optional<OutputQuality> quality;
  double dampening = 0;
  TargetReport target = {};
  std::optional<RoundingCandidate> way = {};  // of the rounding with error feedback
  double compared_error = -1;                 // see CalibratedRounding
  double plain_error = -1;
  AlignedVector<float> corrected = {};  // what was rounded in place of the weight; empty: the weight itself
};

struct TensorView {
  const TensorInfo& info;
  std::span<const std::byte> bytes;
  const MatrixShape& matrix;
};

using Progress = std::function<void(std::int64_t)>;

// Another one for each layer, the same in every run.
std::uint64_t RotationSeed(const std::string& name) {
  Xxh64 hash;
  hash.Update(name.data(), name.size());
  return hash.Digest() >> 11;  // exact as a double
}

// The module that can take the scales of a layer; empty: none is known.
std::string ProducerOf(const SpatialOptions& options, const TensorJob& job) {
  const auto component = options.producers.find(job.component);
  if (component == options.producers.end()) return {};
  const auto producer = component->second.find(job.info.name);
  return producer == component->second.end() ? std::string() : producer->second;
}

// To the nearest values of min-max or fitted grids, block of rows by block.
Attempt RoundToNearest(const TensorView& tensor, int bits, GridFit fit, const ModelOptions& options,
                       const Progress& progress, const std::stop_token& stop) {
  const MatrixShape& shape = tensor.matrix;
  Attempt attempt;
  attempt.method = fit == GridFit::kFitted ? "fitted" : "min_max";
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
            QuantizeRowBlock({w.data(), count, shape.cols}, fit, begin, attempt.matrix);
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

[[noreturn]] void ThrowFailFast(const TensorInfo& info, const std::string& cause) {
  throw Error(ErrorCode::kValidation, cause,
              {.tensor = info.name, .remedy = "Use more bits or a smaller group, or allow the fallback."});
}

// One tensor on its way down the ladder.
class TensorRun {
 public:
  TensorRun(const TensorJob& job, const TensorContext& context, const Progress& progress, const std::stop_token& stop)
      : job_(job),
        context_(context),
        progress_(progress),
        stop_(stop),
        view_{job.info, job.bytes, job.decision.matrix} {
    fit_ = UsesFittedGrid(context.strategy) ? GridFit::kFitted : GridFit::kMinMax;
  }

  // Loads the activations; the sentence says why they are of no use, if so.
  std::string FindActivations(const LayerKey& layer, TensorReport& report) {
    inputs_ = context_.calibration.statistics->Find(layer);
    for (const auto& input : inputs_) report.non_finite_rows += input->non_finite_rows();
    unfit_ = Unfit(inputs_, view_.matrix.rows, view_.matrix.cols);
    if (!unfit_.empty()) {
      inputs_.clear();
      fit_ = context_.options.fit == "fitted" ? GridFit::kFitted : GridFit::kMinMax;
    }
    return unfit_;
  }

  Attempt Try(int bits, TensorReport& report) {
    Attempt nearest = RoundToNearest(view_, bits, fit_, context_.options, progress_, stop_);
    if (inputs_.empty() || nearest.non_finite_at >= 0) return nearest;
    const MatrixShape& shape = view_.matrix;
    const AlignedVector<float> weight = Weight();
    const MatrixView<const float> w(weight.data(), shape.rows, shape.cols);
    nearest.quality = QualityOf(w, nearest.matrix);
    if (!context_.strategy.error_feedback) return nearest;
    return Better(std::move(nearest), WithFeedback(w, bits), report);
  }

  // Static ranges for the input of the layer with the weight as it is stored. A table that is not what the strategy
  // wanted is in the report as a step back; without statistics inference falls back to ranges of each row.
  ActivationTable MakeActivations(const QuantizedMatrix& matrix, TensorReport& report) const {
    if (context_.calibration.statistics == nullptr) return {};
    const bool wanted = context_.strategy.time_aware_activations;
    const char* from = wanted ? "time_aware" : "shared";
    if (inputs_.empty()) {
      AddActivationStep(from, "dynamic", unfit_, report);
      return {};
    }
    ActivationOutcome outcome = Activations().Table(matrix);
    report.activations = std::move(outcome.report);
    if (!outcome.fallback_cause.empty()) AddActivationStep(from, "shared", outcome.fallback_cause, report);
    return std::move(outcome.table);
  }

  // Gains and biases per time group where the strategy wants them and they pay.
  CorrectionOutcome MakeCorrection(const Attempt& attempt) const {
    const QuantizedMatrix& matrix = attempt.matrix;
    const int count = context_.options.activations.time_groups;
    // Rows of a transposed convolution's weight serve the output channels of all its groups.
    const bool row_is_output = view_.matrix.quant_axis == 0;
    if (!context_.strategy.time_aware || inputs_.empty() || count == 1 || !row_is_output) return {};
    const AlignedVector<float> weight = attempt.corrected.empty() ? Weight() : attempt.corrected;
    AlignedVector<float> values(weight.size());
    DequantizeRows(matrix, 0, matrix.rows, values.data());
    return MakeTimeCorrection({weight.data(), matrix.rows, matrix.cols}, {values.data(), matrix.rows, matrix.cols},
                              inputs_, context_.calibration.statistics->time_groups(), count);
  }

  // What was done to the input channels, and a step back where the strategy wanted something and nothing helps.
  void FillSpatial(const Attempt& attempt, bool shifted, TensorReport& report) const {
    const SpatialChoice& wanted = context_.strategy.transforms;
    SpatialReport& spatial = report.spatial;
    spatial = {};
    if (inputs_.empty()) return;
    const RoundingCandidate way = attempt.way.value_or(RoundingCandidate{});
    spatial.wanted = wanted.balance || wanted.grid || wanted.rotation != Use::kNever || wanted.shift == Use::kAlways;
    spatial.shift = shifted;
    spatial.demanded = wanted.demanded;
    spatial.equalization = EqualizationKindName(way.equalization);
    spatial.alpha = way.alpha;
    spatial.rotation = way.rotation_seed.has_value();
    spatial.error = attempt.compared_error;
    spatial.plain_error = attempt.plain_error;
    if (way.equalization == EqualizationKind::kBalance || way.equalization == EqualizationKind::kGrid)
      spatial.producer = ProducerOf(context_.options.spatial, job_);
    if (spatial.wanted && way.plain() && (!shifted || wanted.demanded_way)) {
      const std::string cause = PlainCause(attempt);
      const double cosine = report.output_cosine;
      report.fallbacks.push_back(
          {job_.info.name, report.bits, report.bits, "spatial", "per_channel", cause, cosine, cosine});
      if (wanted.demanded && context_.options.fail_fast) ThrowFailFast(job_.info, cause);
    }
  }

 private:
  AlignedVector<float> Weight() const {
    const MatrixShape& shape = view_.matrix;
    AlignedVector<float> weight(static_cast<std::size_t>(shape.rows * shape.cols));
    ReadMatrixRows(job_.info, job_.bytes, shape, 0, shape.rows, weight.data());
    return weight;
  }

  LayerActivations Activations() const {
    return {inputs_, InputLayoutOf(job_.info, view_.matrix, static_cast<std::int64_t>(inputs_.size())),
            context_.calibration.statistics->time_groups(), context_.options.activations, context_.strategy};
  }

  std::string PlainCause(const Attempt& attempt) const {
    if (!attempt.way) return "rounding to the nearest values transforms nothing";
    if (inputs_.size() > 1) return "a convolution in groups has no scales that all of them could share";
    if (attempt.compared_error < 0) return "the scales of all channels are equal";
    char text[160];
    std::snprintf(text, sizeof(text),
                  "no transform lowers the relative output error of %.3g on held-out rows, weights and activations",
                  attempt.plain_error);
    return text;
  }

  void AddActivationStep(const char* from, const char* to, const std::string& cause, TensorReport& report) const {
    const double cosine = report.calibrated ? report.output_cosine : report.cosine;
    report.fallbacks.push_back({job_.info.name, report.bits, report.bits, from, to, cause, cosine, cosine});
    if (context_.options.fail_fast) ThrowFailFast(job_.info, cause);
  }

  OutputQuality QualityOf(MatrixView<const float> w, const QuantizedMatrix& matrix) const {
    AlignedVector<float> values(static_cast<std::size_t>(w.size()));
    DequantizeRows(matrix, 0, matrix.rows, values.data());
    return MeasureQuality(w, {values.data(), w.rows, w.cols}, inputs_, context_.options.num_threads);
  }

  CalibratedRounding WithFeedback(MatrixView<const float> w, int bits) const {
    const LayerKey layer{job_.component, job_.info.name};
    const EqualizationScales scales =
        context_.equalization == nullptr ? EqualizationScales() : context_.equalization->Of(layer);
    const std::uint64_t seed = RotationSeed(job_.info.name);
    ActivationJudge judge;
    if (context_.strategy.spatial)
      judge.cost = [activations = Activations()](const QuantizedMatrix& matrix) { return activations.Error(matrix); };
    judge.weights_first = context_.options.activations.bits == 0 && !context_.strategy.transforms.demanded;
    return RoundCalibrated(w, inputs_, CandidatesOf(context_.strategy, bits, inputs_, scales, seed),
                           context_.calibration.time_weights, RoundingOptionsOf(context_.options, bits), stop_, judge);
  }

  // What ways to round are compared by: with integer activations where they count.
  double ErrorOf(const QuantizedMatrix& matrix, const OutputQuality& quality) const {
    const double error = RelativeError(quality, context_.calibration.time_weights);
    return context_.strategy.spatial ? error + Activations().Error(matrix) : error;
  }

  // Error feedback, unless held-out rows say that nearest rounding is better: too few samples can mislead it.
  Attempt Better(Attempt nearest, CalibratedRounding rounded, TensorReport& report) const {
    const double feedback_error = ErrorOf(rounded.matrix, rounded.quality);
    const double nearest_error = ErrorOf(nearest.matrix, *nearest.quality);
    if (nearest_error < kClearlyBetter * feedback_error) {
      char cause[160];
      std::snprintf(cause, sizeof(cause), "relative output error %.3g on held-out rows, %.3g by nearest rounding",
                    feedback_error, nearest_error);
      AddStep(nearest.method, cause, rounded.quality, *nearest.quality, report);
      return nearest;
    }
    if (rounded.diagonal) {
      AddStep("diagonal", "the second moment of the activations is singular at every dampening up to 1",
              rounded.quality, rounded.quality, report);
    }
    Attempt attempt;
    attempt.matrix = std::move(rounded.matrix);
    attempt.sums = rounded.sums;
    attempt.method = rounded.diagonal ? "diagonal" : "ldlq";
    attempt.constant_groups = nearest.constant_groups;
    attempt.quality = std::move(rounded.quality);
    attempt.dampening = rounded.dampening;
    attempt.target = rounded.target;
    attempt.corrected = std::move(rounded.corrected);
    attempt.way = std::move(rounded.way);
    attempt.compared_error = rounded.compared_error;
    attempt.plain_error = rounded.plain_error;
    return attempt;
  }

  void AddStep(const std::string& to, const std::string& cause, const OutputQuality& before, const OutputQuality& after,
               TensorReport& report) const {
    const int bits = report.bits;
    report.fallbacks.push_back(
        {job_.info.name, bits, bits, "ldlq", to, cause, OutputCosine(before), OutputCosine(after)});
  }

  static double OutputCosine(const OutputQuality& quality) {
    return Cosine({quality.total.ww, quality.total.wq, quality.total.qq, quality.total.ee});
  }

  const TensorJob& job_;
  const TensorContext& context_;
  const Progress& progress_;
  const std::stop_token& stop_;
  TensorView view_;
  GridFit fit_ = GridFit::kMinMax;
  LayerInputs inputs_;
  std::string unfit_;  // why there are none
};

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
  report.grid.clear();
  report.reason = std::move(reason);
  report.calibrated = false;
  report.time_groups.clear();
  report.target = {};
  report.cosine = 1;
  report.sqnr_db = 200;
  report.stored_bytes = report.source_bytes;
}

void FillQuality(const OutputQuality& quality, const TimeGroups& groups, TensorReport& report) {
  const auto sums_of = [](const OutputSums& s) { return ErrorSums{s.ww, s.wq, s.qq, s.ee}; };
  report.calibrated = true;
  report.output_cosine = Cosine(sums_of(quality.total));
  report.output_sqnr_db = SqnrDb(sums_of(quality.total));
  report.time_groups.clear();
  for (std::size_t g = 0; g < quality.groups.size(); ++g) {
    if (quality.rows[g] == 0) continue;
    const ErrorSums sums = sums_of(quality.groups[g]);
    report.time_groups.push_back(
        {groups.boundaries()[g], groups.boundaries()[g + 1], quality.rows[g], Cosine(sums), SqnrDb(sums)});
  }
}

void FillQuantized(const Attempt& attempt, const ModelCalibration& calibration, TensorReport& report) {
  const QuantizedMatrix& m = attempt.matrix;
  report.quantized = true;
  report.bits = m.bits;
  report.group_size = m.group_size;
  report.tail = m.cols - (m.groups() - 1) * m.group_size;
  report.method = attempt.method;
  report.grid = GridKindName(m.grid);
  report.column_scales = !m.column_scales.empty();
  report.cosine = Cosine(attempt.sums);
  report.sqnr_db = SqnrDb(attempt.sums);
  report.dampening = attempt.dampening;
  report.target = attempt.target;
  if (attempt.quality) FillQuality(*attempt.quality, calibration.statistics->time_groups(), report);
  report.constant_groups = attempt.constant_groups;
  report.stored_bytes = static_cast<std::int64_t>(
      m.codes.size() + 4 * (m.scales.size() + m.zero_points.size() + m.residual_scales.size()));
}

std::string BelowThreshold(const TensorReport& report, double least) {
  char text[128];
  std::snprintf(text, sizeof(text), "%s cosine %.4f at %d bits is below min_accuracy %.4f",
                report.calibrated ? "output" : "weight", report.calibrated ? report.output_cosine : report.cosine,
                report.bits, least);
  return text;
}

int NextBits(int bits) { return bits < 4 ? 4 : bits < 8 ? 8 : 16; }

std::uint64_t EncodedBytesOf(const QuantizedMatrix& m) {
  std::uint64_t bytes = EncodedBytes(std::as_bytes(std::span(m.codes)));
  for (const auto* values : {&m.scales, &m.zero_points, &m.residual_scales, &m.column_scales}) {
    bytes += EncodedBytes(std::span<const float>(*values));
  }
  return bytes;
}

std::uint64_t EncodedBytesOf(const ActivationTable& table, const OutputCorrection& correction) {
  std::uint64_t bytes = 0;
  for (const auto* values : {&table.scales, &table.zero_points, &correction.gains, &correction.biases}) {
    bytes += EncodedBytes(std::span<const float>(*values));
  }
  return bytes;
}

WidthFigures FiguresOf(const Attempt& attempt, int bits, const std::vector<double>& time_weights) {
  const ErrorSums& s = attempt.sums;
  WidthFigures figures{bits, static_cast<std::int64_t>(EncodedBytesOf(attempt.matrix)), 0, Cosine(s)};
  figures.error = s.ww > 0 ? s.ee / s.ww : s.ee > 0 ? 1 : 0;
  if (!attempt.quality) return figures;
  const OutputSums& total = attempt.quality->total;
  figures.cosine = Cosine({total.ww, total.wq, total.qq, total.ee});
  figures.error = RelativeError(*attempt.quality, time_weights);
  return figures;
}

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

std::vector<WidthFigures> MeasureWidths(const TensorJob& job, const TensorContext& context, std::span<const int> widths,
                                        const std::stop_token& stop) {
  ModelOptions options = context.options;
  options.fail_fast = false;  // steps back are for the run that keeps what it makes
  const TensorContext own{options, context.strategy, context.calibration, context.equalization};
  const Progress no_progress = [](std::int64_t) {};
  TensorRun run(job, own, no_progress, stop);
  TensorReport scratch = BaseReport(job.info, job.decision);
  if (own.calibration.statistics != nullptr) run.FindActivations({job.component, job.info.name}, scratch);
  std::vector<WidthFigures> figures;
  std::uint64_t tables = 0;
  for (const int bits : widths) {
    const Attempt attempt = run.Try(bits, scratch);
    if (attempt.non_finite_at >= 0) return {};
    figures.push_back(FiguresOf(attempt, bits, own.calibration.time_weights));
    if (bits != widths.back()) continue;
    tables = EncodedBytesOf(run.MakeActivations(attempt.matrix, scratch), run.MakeCorrection(attempt).correction);
  }
  for (WidthFigures& f : figures) {
    f.bytes += static_cast<std::int64_t>(tables);
    f.bytes += static_cast<std::int64_t>(
        EncodedRowOverhead(static_cast<std::uint64_t>(f.bytes), own.calibration.statistics != nullptr));
  }
  return figures;
}

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

TensorOutcome QuantizeTensor(const TensorJob& job, const TensorContext& context,
                             const std::function<void(std::int64_t)>& progress, const std::stop_token& stop) {
  const ModelOptions& options = context.options;
  TensorReport report = BaseReport(job.info, job.decision);
  report.component = job.component;
  if (!job.decision.quantize) {
    MarkKept(report, job.decision.reason);
    return {{}, {}, std::move(report)};
  }
  TensorRun run(job, context, progress, stop);
  std::string no_activations;
  if (context.calibration.statistics != nullptr)
    no_activations = run.FindActivations({job.component, job.info.name}, report);
  for (int bits = job.bits;;) {
    report.bits = bits;
    const std::size_t steps_before = report.fallbacks.size();
    Attempt attempt = run.Try(bits, report);
    if (attempt.non_finite_at >= 0) return HandleNonFinite(job.info, options, attempt.non_finite_at, std::move(report));
    FillQuantized(attempt, context.calibration, report);
    const double cosine = report.calibrated ? report.output_cosine : report.cosine;
    if (steps_before > 0) report.fallbacks[steps_before - 1].cosine_after = cosine;
    if (!no_activations.empty()) {
      report.fallbacks.push_back({job.info.name, bits, bits, context.strategy.error_feedback ? "ldlq" : attempt.method,
                                  attempt.method, std::exchange(no_activations, {}), cosine, cosine});
    }
    if (options.fail_fast && !report.fallbacks.empty()) ThrowFailFast(job.info, report.fallbacks.back().cause);
    if (cosine >= options.min_accuracy) {
      ActivationTable activations = run.MakeActivations(attempt.matrix, report);
      run.FillSpatial(attempt, !activations.shift.empty(), report);
      CorrectionOutcome correction = run.MakeCorrection(attempt);
      report.correction = std::move(correction.report);
      return {std::move(attempt.matrix),
              attempt.sums,
              std::move(report),
              std::move(activations),
              std::move(correction.correction),
              std::move(correction.boundaries)};
    }
    const std::string cause = BelowThreshold(report, options.min_accuracy);
    if (options.fail_fast || !options.fallback) ThrowFailFast(job.info, cause);
    const int next = NextBits(bits);
    report.fallbacks.push_back(
        {job.info.name, bits, next, attempt.method, next == 16 ? "kept" : attempt.method, cause, cosine, 1});
    if (next == 16) {
      MarkKept(report, cause);
      return {{}, {}, std::move(report)};
    }
    bits = next;
  }
}

}  // namespace arrow_quant
