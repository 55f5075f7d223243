#include "arrow_quant/quantize/time_aware/output_correction.h"

#include <cmath>
#include <cstddef>
#include <utility>

#include "arrow_quant/linalg/blas.h"
#include "arrow_quant/numeric/significant_bits.h"
#include "arrow_quant/quantize/affine_grid.h"

namespace arrow_quant {
namespace {

// What a stored value takes: kScaleSignificantBits of mantissa, sign and exponent, as the grids' parameters.
constexpr double kStoredBits = 16;
// A bit more of every weight divides the error by about this.
constexpr double kErrorPerBit = 4;
// Rows of inputs that say as much about a gain as the belief that it is 1.
constexpr double kPriorRows = 8;

MatrixView<const float> RowsView(const AlignedVector<float>& rows, std::int64_t cols) {
  return {rows.data(), static_cast<std::int64_t>(rows.size()) / cols, cols};
}

// x W^T, [n, rows].
AlignedVector<float> Outputs(MatrixView<const float> x, MatrixView<const float> weight) {
  AlignedVector<float> y(static_cast<std::size_t>(x.rows * weight.rows), 0.0F);
  if (x.rows > 0) Gemm<float>(Transpose::kNo, Transpose::kYes, 1, x, weight, 0, {y.data(), x.rows, weight.rows});
  return y;
}

double Dot(const float* a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < b.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

float Stored(double value) { return RoundToSignificantBits(static_cast<float>(value), kScaleSignificantBits); }

// Outputs of one time group by the weight and by what it became, on the rows that fit and on those that judge.
struct GroupOutputs {
  AlignedVector<float> fit_want, fit_got, judge_want, judge_got;
};

GroupOutputs MakeOutputs(MatrixView<const float> weight, MatrixView<const float> quantized,
                         const CorrectionSample& sample) {
  const auto fit = RowsView(sample.fit_rows, weight.cols);
  const auto judge = RowsView(sample.judge_rows, weight.cols);
  return {Outputs(fit, weight), Outputs(fit, quantized), Outputs(judge, weight), Outputs(judge, quantized)};
}

// Least squares of want on got for one row around its means, as if kPriorRows more had said 1.
double Gain(const GroupOutputs& outputs, std::int64_t row, std::int64_t rows) {
  const auto n = static_cast<std::int64_t>(outputs.fit_want.size()) / rows;
  if (n < 2) return 1;
  double mean_want = 0;
  double mean_got = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    mean_want += static_cast<double>(outputs.fit_want[static_cast<std::size_t>(i * rows + row)]);
    mean_got += static_cast<double>(outputs.fit_got[static_cast<std::size_t>(i * rows + row)]);
  }
  mean_want /= static_cast<double>(n);
  mean_got /= static_cast<double>(n);
  double both = 0;
  double got = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double w = static_cast<double>(outputs.fit_want[static_cast<std::size_t>(i * rows + row)]) - mean_want;
    const double q = static_cast<double>(outputs.fit_got[static_cast<std::size_t>(i * rows + row)]) - mean_got;
    both += w * q;
    got += q * q;
  }
  if (!(got > 0)) return 1;
  const double prior = kPriorRows * got / static_cast<double>(n);
  return (both + prior) / (got + prior);
}

// Squared error on the judging rows with gains [rows] and biases [rows].
double JudgedError(const GroupOutputs& outputs, const float* gains, const float* biases, std::size_t rows) {
  double error = 0;
  for (std::size_t i = 0; i < outputs.judge_want.size(); ++i) {
    const std::size_t row = i % rows;
    const float corrected = gains[row] * outputs.judge_got[i] + biases[row];
    const double difference = static_cast<double>(outputs.judge_want[i]) - static_cast<double>(corrected);
    error += difference * difference;
  }
  return error;
}

// One kind of correction in all time groups.
struct Candidate {
  std::vector<float> gains, biases;
  std::vector<double> errors;
  double total = 0;
};

void AddGroup(bool with_gain, MatrixView<const float> weight, MatrixView<const float> quantized,
              const CorrectionSample& sample, const GroupOutputs& outputs, double error_before, Candidate& candidate) {
  const auto rows = static_cast<std::size_t>(weight.rows);
  std::vector<float> gains(rows, 1.0F);
  std::vector<float> biases(rows, 0.0F);
  for (std::size_t r = 0; r < rows && !sample.mean.empty(); ++r) {
    const auto row = static_cast<std::int64_t>(r);
    if (with_gain) gains[r] = Stored(Gain(outputs, row, weight.rows));
    biases[r] = Stored(Dot(weight.Row(row), sample.mean) -
                       static_cast<double>(gains[r]) * Dot(quantized.Row(row), sample.mean));
  }
  double error = JudgedError(outputs, gains.data(), biases.data(), rows);
  if (!(error < error_before)) {
    gains.assign(rows, 1.0F);
    biases.assign(rows, 0.0F);
    error = error_before;
  }
  candidate.gains.insert(candidate.gains.end(), gains.begin(), gains.end());
  candidate.biases.insert(candidate.biases.end(), biases.begin(), biases.end());
  candidate.errors.push_back(error);
  candidate.total += error;
}

}  // namespace

std::string_view CorrectionKindName(CorrectionKind kind) {
  switch (kind) {
    case CorrectionKind::kNone:
      return "none";
    case CorrectionKind::kBias:
      return "bias";
    case CorrectionKind::kGainAndBias:
      return "gain_and_bias";
  }
  return "none";
}

CorrectionChoice ChooseCorrection(MatrixView<const float> weight, MatrixView<const float> quantized,
                                  const std::vector<CorrectionSample>& samples) {
  CorrectionChoice choice;
  Candidate bias;
  Candidate both;
  double best = 0;
  for (const CorrectionSample& sample : samples) {
    const GroupOutputs outputs = MakeOutputs(weight, quantized, sample);
    const std::vector<float> ones(static_cast<std::size_t>(weight.rows), 1.0F);
    const std::vector<float> zeros(static_cast<std::size_t>(weight.rows), 0.0F);
    const double before = JudgedError(outputs, ones.data(), zeros.data(), ones.size());
    AddGroup(false, weight, quantized, sample, outputs, before, bias);
    AddGroup(true, weight, quantized, sample, outputs, before, both);
    choice.error_before.push_back(before);
    best += before;
  }
  choice.error_after = choice.error_before;
  const double bits = kStoredBits * static_cast<double>(samples.size()) / static_cast<double>(weight.cols);
  const auto offer = [&](CorrectionKind kind, Candidate& candidate, double cost) {
    const double price = candidate.total * std::pow(kErrorPerBit, cost);
    if (!(price < best)) return;
    best = price;
    choice.kind = kind;
    choice.correction = {kind == CorrectionKind::kGainAndBias ? candidate.gains : std::vector<float>(),
                         candidate.biases};
    choice.error_after = candidate.errors;
    choice.bits_per_weight = cost;
  };
  offer(CorrectionKind::kBias, bias, bits);
  offer(CorrectionKind::kGainAndBias, both, 2 * bits);
  return choice;
}

}  // namespace arrow_quant
