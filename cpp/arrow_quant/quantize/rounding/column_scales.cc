#include "arrow_quant/quantize/rounding/column_scales.h"

#include <algorithm>
#include <cmath>

#include "arrow_quant/numeric/significant_bits.h"
#include "arrow_quant/quantize/affine_grid.h"

namespace arrow_quant {
namespace {

constexpr double kInputExponent = 0.15;
// No column is scaled by more than this beside the average one, so that nothing leaves the range of floats.
constexpr double kLargestRatio = 1024;

std::vector<double> ColumnMeanSquares(MatrixView<const float> weight) {
  std::vector<double> sums(static_cast<std::size_t>(weight.cols), 0.0);
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    const float* row = weight.Row(r);
    for (std::size_t c = 0; c < sums.size(); ++c) {
      const auto w = static_cast<double>(row[c]);
      sums[c] += w * w;
    }
  }
  return sums;
}

}  // namespace

std::vector<float> ColumnScales(MatrixView<const float> weight, const HessianMetric& metric) {
  std::vector<double> sizes = ColumnMeanSquares(weight);
  double total = 0;
  for (const double size : sizes) total += size;
  const double mean = total / static_cast<double>(std::max<std::int64_t>(weight.cols, 1));
  std::vector<float> scales(sizes.size(), 1.0F);
  if (!(mean > 0)) return scales;
  for (std::size_t c = 0; c < sizes.size(); ++c) {
    const double size = std::clamp(std::sqrt(sizes[c] / mean), 1 / kLargestRatio, kLargestRatio);
    const double loudness = std::sqrt(static_cast<double>(metric.Diagonal(static_cast<std::int64_t>(c))));
    const double scale = size / std::pow(std::clamp(loudness, 1 / kLargestRatio, kLargestRatio), kInputExponent);
    scales[c] = RoundToSignificantBits(static_cast<float>(scale), kScaleSignificantBits);
  }
  return scales;
}

}  // namespace arrow_quant
