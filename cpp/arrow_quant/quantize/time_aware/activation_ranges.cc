#include "arrow_quant/quantize/time_aware/activation_ranges.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "arrow_quant/kernels/kernels.h"
#include "arrow_quant/linalg/blas.h"

namespace arrow_quant {
namespace {

constexpr double kTail = 1e-3;
// A block that was always zero still needs a positive scale.
constexpr float kLeastRange = 1e-6F;

struct Range {
  float low = 0;
  float high = 0;
};

struct Codes {
  float scale = 1;
  float zero_point = 0;
};

Codes CodesOf(Range range) {
  range.low = std::min(range.low, 0.0F);
  range.high = std::max(range.high, 0.0F);
  if (!(range.high - range.low > kLeastRange)) range.high = range.low + kLeastRange;
  const float scale = (range.high - range.low) / static_cast<float>(kActivationLevels);
  return {scale, std::clamp(-range.low / scale, 0.0F, static_cast<float>(kActivationLevels))};
}

// What the codes make of a value; the runtime's arithmetic.
float Requantized(float x, const Codes& codes) {
  const float zero = std::nearbyint(codes.zero_point);
  const float steps = std::nearbyint(x / codes.scale);
  return codes.scale * std::clamp(steps, -zero, static_cast<float>(kActivationLevels) - zero);
}

// Columns of one block of one input.
struct BlockColumns {
  std::int64_t begin = 0;
  std::int64_t count = 0;
};

std::vector<BlockColumns> BlocksOf(const InputLayout& layout, std::int64_t block_size) {
  std::vector<BlockColumns> blocks;
  for (std::int64_t c = 0; c < layout.channels; c += block_size) {
    blocks.push_back({c * layout.taps, std::min(block_size, layout.channels - c) * layout.taps});
  }
  return blocks;
}

MatrixView<const float> RowsOf(const AlignedVector<float>& values, std::int64_t columns) {
  return {values.data(), static_cast<std::int64_t>(values.size()) / columns, columns};
}

MatrixView<const float> WeightOf(MatrixView<const float> weight, const InputLayout& layout, std::int64_t input) {
  const std::int64_t count = weight.rows / layout.inputs;
  return weight.Rows(input * count, count);
}

// Squared norms of the weight's columns.
std::vector<float> ColumnEnergies(MatrixView<const float> weight) {
  std::vector<double> sums(static_cast<std::size_t>(weight.cols));
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    for (std::int64_t c = 0; c < weight.cols; ++c) {
      sums[static_cast<std::size_t>(c)] += static_cast<double>(weight(r, c)) * static_cast<double>(weight(r, c));
    }
  }
  return {sums.begin(), sums.end()};
}

Range RangeSeen(const InputSample& sample, const BlockColumns& block) {
  if (sample.min.empty()) return {};
  const auto begin = block.begin;
  const auto end = block.begin + block.count;
  return {*std::min_element(sample.min.begin() + begin, sample.min.begin() + end),
          *std::max_element(sample.max.begin() + begin, sample.max.begin() + end)};
}

Range Percentile(MatrixView<const float> rows, const BlockColumns& block) {
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(rows.rows * block.count));
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    values.insert(values.end(), rows.Row(r) + block.begin, rows.Row(r) + block.begin + block.count);
  }
  const auto cut = static_cast<std::ptrdiff_t>(kTail * static_cast<double>(values.size()));
  std::nth_element(values.begin(), values.begin() + cut, values.end());
  const float low = values[static_cast<std::size_t>(cut)];
  const auto top = static_cast<std::ptrdiff_t>(values.size()) - 1 - cut;
  std::nth_element(values.begin(), values.begin() + top, values.end());
  return {low, values[static_cast<std::size_t>(top)]};
}

double WeightedError(MatrixView<const float> rows, const BlockColumns& block, const std::vector<float>& energies,
                     const Codes& codes) {
  double total = 0;
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    const float* x = rows.Row(r) + block.begin;
    for (std::int64_t c = 0; c < block.count; ++c) {
      const float error = Requantized(x[c], codes) - x[c];
      total += static_cast<double>(energies[static_cast<std::size_t>(block.begin + c)] * error * error);
    }
  }
  return total;
}

// Both ends drawn in together from min-max, then each alone around the best.
Range LeastError(MatrixView<const float> rows, const BlockColumns& block, const std::vector<float>& energies,
                 const Range& full) {
  Range best = full;
  double least = WeightedError(rows, block, energies, CodesOf(full));
  const auto attempt = [&](float low, float high) {
    const Range range{std::max(low, full.low), std::min(high, full.high)};
    const double error = WeightedError(rows, block, energies, CodesOf(range));
    if (error < least) best = range, least = error;
  };
  for (int percent = 95; percent >= 30; percent -= 5) {
    const float part = static_cast<float>(percent) / 100;
    attempt(full.low * part, full.high * part);
  }
  constexpr std::array kParts = {0.7F, 0.8F, 0.9F, 0.95F, 1.05F, 1.1F, 1.2F};
  const Range joint = best;
  for (const float part : kParts) attempt(joint.low * part, best.high);
  for (const float part : kParts) attempt(best.low, joint.high * part);
  return best;
}

// Differences between rows of one input and what their codes stand for, [rows, columns].
AlignedVector<float> CodeErrors(MatrixView<const float> rows, const std::vector<BlockColumns>& blocks,
                                const float* scales, const float* zero_points) {
  AlignedVector<float> errors(static_cast<std::size_t>(rows.size()));
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    float* out = errors.data() + r * rows.cols;
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      const Codes codes{scales[b], zero_points[b]};
      for (std::int64_t c = blocks[b].begin; c < blocks[b].begin + blocks[b].count; ++c) {
        out[c] = Requantized(rows(r, c), codes) - rows(r, c);
      }
    }
  }
  return errors;
}

double OutputEnergy(MatrixView<const float> rows, MatrixView<const float> weight) {
  AlignedVector<float> outputs(static_cast<std::size_t>(rows.rows * weight.rows));
  Gemm<float>(Transpose::kNo, Transpose::kYes, 1, rows, weight, 0, {outputs.data(), rows.rows, weight.rows});
  return Kernels().dot(outputs.data(), outputs.data(), outputs.size());
}

void MergeInto(const InputSample& part, InputSample& whole) {
  whole.fit_rows.insert(whole.fit_rows.end(), part.fit_rows.begin(), part.fit_rows.end());
  whole.judge_rows.insert(whole.judge_rows.end(), part.judge_rows.begin(), part.judge_rows.end());
  whole.count += part.count;
  if (part.min.empty()) return;
  if (whole.min.empty()) {
    whole.min = part.min;
    whole.max = part.max;
    return;
  }
  for (std::size_t c = 0; c < part.min.size(); ++c) {
    whole.min[c] = std::min(whole.min[c], part.min[c]);
    whole.max[c] = std::max(whole.max[c], part.max[c]);
  }
}

}  // namespace

std::string_view RangeMethodName(RangeMethod method) {
  constexpr std::array<std::string_view, 3> kNames = {"min_max", "percentile", "mse"};
  return kNames[static_cast<std::size_t>(method)];
}

GroupRanges FitRanges(RangeMethod method, const GroupSample& sample, const InputLayout& layout, std::int64_t block_size,
                      MatrixView<const float> weight) {
  GroupRanges ranges;
  ranges.block_size = block_size;
  const std::vector<BlockColumns> blocks = BlocksOf(layout, block_size);
  for (std::int64_t i = 0; i < layout.inputs; ++i) {
    const InputSample& input = sample[static_cast<std::size_t>(i)];
    const MatrixView<const float> rows = RowsOf(input.fit_rows, layout.Columns());
    const bool fitted = rows.rows > 0 && method != RangeMethod::kMinMax;
    const std::vector<float> energies =
        fitted && method == RangeMethod::kMse ? ColumnEnergies(WeightOf(weight, layout, i)) : std::vector<float>();
    for (const BlockColumns& block : blocks) {
      Range range = RangeSeen(input, block);
      if (fitted && method == RangeMethod::kPercentile) range = Percentile(rows, block);
      if (fitted && method == RangeMethod::kMse) range = LeastError(rows, block, energies, range);
      const Codes codes = CodesOf(range);
      ranges.scales.push_back(codes.scale);
      ranges.zero_points.push_back(codes.zero_point);
    }
  }
  return ranges;
}

double OutputErrorOf(const GroupRanges& ranges, const GroupSample& sample, const InputLayout& layout,
                     MatrixView<const float> weight) {
  const std::vector<BlockColumns> blocks = BlocksOf(layout, ranges.block_size);
  double error = 0;
  for (std::int64_t i = 0; i < layout.inputs; ++i) {
    const MatrixView<const float> rows = RowsOf(sample[static_cast<std::size_t>(i)].judge_rows, layout.Columns());
    if (rows.rows == 0) continue;
    const std::size_t at = static_cast<std::size_t>(i) * blocks.size();
    const AlignedVector<float> errors = CodeErrors(rows, blocks, &ranges.scales[at], &ranges.zero_points[at]);
    error += OutputEnergy({errors.data(), rows.rows, rows.cols}, WeightOf(weight, layout, i)) /
             static_cast<double>(rows.rows);
  }
  return error;
}

RangeChoice ChooseRanges(std::span<const RangeMethod> methods, const GroupSample& sample, const InputLayout& layout,
                         std::int64_t block_size, MatrixView<const float> weight) {
  RangeChoice best;
  for (const RangeMethod method : methods) {
    RangeChoice tried{FitRanges(method, sample, layout, block_size, weight), method, 0};
    tried.error = OutputErrorOf(tried.ranges, sample, layout, weight);
    const double least = best.method == methods.front() ? kClippingGain * best.error : best.error;
    if (best.ranges.scales.empty() || tried.error < least) best = std::move(tried);
  }
  return best;
}

GroupSample MergeSamples(std::span<const GroupSample> samples) {
  GroupSample whole(samples.empty() ? 0 : samples.front().size());
  for (const GroupSample& sample : samples) {
    for (std::size_t i = 0; i < whole.size(); ++i) MergeInto(sample[i], whole[i]);
  }
  return whole;
}

double OutputEnergyOf(const GroupSample& sample, const InputLayout& layout, MatrixView<const float> weight) {
  double energy = 0;
  for (std::int64_t i = 0; i < layout.inputs; ++i) {
    const MatrixView<const float> rows = RowsOf(sample[static_cast<std::size_t>(i)].judge_rows, layout.Columns());
    if (rows.rows == 0) continue;
    energy += OutputEnergy(rows, WeightOf(weight, layout, i)) / static_cast<double>(rows.rows);
  }
  return energy;
}

}  // namespace arrow_quant
