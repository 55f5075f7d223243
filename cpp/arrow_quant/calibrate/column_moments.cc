#include "arrow_quant/calibrate/column_moments.h"

#include <algorithm>
#include <cmath>

namespace arrow_quant {
namespace {

// Columns in one pass: what a pass accumulates stays in the first-level cache.
constexpr std::int64_t kBlock = 256;

// Sums of a block of columns, side by side so that the compiler can make vectors of them. Values are taken less those
// of the first row, so that squares far from zero do not cancel.
struct BlockSums {
  double sum[kBlock];
  double squares[kBlock];
  float min[kBlock];
  float max[kBlock];
};

void Accumulate(const float* rows, std::int64_t count, std::int64_t stride, std::int64_t width, BlockSums& sums) {
  for (std::int64_t c = 0; c < width; ++c) {
    sums.sum[c] = sums.squares[c] = 0;
    sums.min[c] = sums.max[c] = rows[c];
  }
  for (std::int64_t r = 1; r < count; ++r) {
    const float* row = rows + r * stride;
    for (std::int64_t c = 0; c < width; ++c) {
      const double d = static_cast<double>(row[c]) - static_cast<double>(rows[c]);
      sums.sum[c] += d;
      sums.squares[c] += d * d;
      sums.min[c] = row[c] < sums.min[c] ? row[c] : sums.min[c];
      sums.max[c] = row[c] > sums.max[c] ? row[c] : sums.max[c];
    }
  }
}

}  // namespace

void Moments::Merge(const Moments& other) {
  if (other.count == 0) return;
  if (count == 0) {
    *this = other;
    return;
  }
  const double total = count + other.count;
  const double delta = other.mean - mean;
  m2 += other.m2 + delta * delta * count * other.count / total;
  mean += delta * other.count / total;
  count = total;
  min = std::min(min, other.min);
  max = std::max(max, other.max);
}

double Moments::Std() const { return count > 0 ? std::sqrt(m2 / count) : 0; }

std::vector<Moments> ColumnMoments(const float* rows, std::int64_t count, std::int64_t channels) {
  std::vector<Moments> moments(static_cast<std::size_t>(channels));
  BlockSums sums;
  const auto n = static_cast<double>(count);
  for (std::int64_t begin = 0; begin < channels; begin += kBlock) {
    const std::int64_t width = std::min(kBlock, channels - begin);
    Accumulate(rows + begin, count, channels, width, sums);
    for (std::int64_t c = 0; c < width; ++c) {
      const double m2 = std::max(0.0, sums.squares[c] - sums.sum[c] * sums.sum[c] / n);
      moments[static_cast<std::size_t>(begin + c)] = {n, static_cast<double>(rows[begin + c]) + sums.sum[c] / n, m2,
                                                      sums.min[c], sums.max[c]};
    }
  }
  return moments;
}

}  // namespace arrow_quant
