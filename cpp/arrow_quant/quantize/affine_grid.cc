#include "arrow_quant/quantize/affine_grid.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <vector>

#include "arrow_quant/numeric/significant_bits.h"

namespace arrow_quant {
namespace {

bool LevelsAreFinite(AffineParams grid, int max_code) {
  const float first = grid.scale * (0.0F - grid.zero_point);
  const float last = grid.scale * (static_cast<float>(max_code) - grid.zero_point);
  return std::isfinite(first) && std::isfinite(last);
}

// A rounded zero point moves the whole grid, so it may move it by a quarter of a step only.
float StoredZeroPoint(double zero_point, int bits) {
  const float exact = static_cast<float>(zero_point);
  const int kept = bits == 8 ? kZeroPointSignificantBitsInt8 : kZeroPointSignificantBits;
  const float rounded = RoundToSignificantBits(exact, kept);
  return std::abs(static_cast<double>(rounded) - zero_point) <= 0.25 ? rounded : exact;
}

// Grid with the given scale whose middle level is the middle of the range.
AffineParams Centred(float scale, const MinMax& range, int bits) {
  const double middle = (static_cast<double>(range.low) + static_cast<double>(range.high)) / 2;
  const double zero_point = static_cast<double>((1 << bits) - 1) / 2 - middle / static_cast<double>(scale);
  return {scale, StoredZeroPoint(zero_point, bits)};
}

double SquaredError(const float* w, const float* weight, std::size_t n, AffineParams grid, int bits) {
  constexpr std::size_t kBlock = 256;
  std::array<std::uint8_t, kBlock> codes;
  std::array<float, kBlock> values;
  double error = 0;
  for (std::size_t begin = 0; begin < n; begin += kBlock) {
    const std::size_t count = std::min(kBlock, n - begin);
    Kernels().quantize(w + begin, count, grid, (1 << bits) - 1, codes.data());
    Kernels().dequantize(codes.data(), count, grid, values.data());
    if (weight == nullptr) {
      error += Kernels().error_sums(w + begin, values.data(), count).ee;
      continue;
    }
    for (std::size_t i = 0; i < count; ++i) {
      const double e = static_cast<double>(w[begin + i]) - static_cast<double>(values[i]);
      error += static_cast<double>(weight[begin + i]) * e * e;
    }
  }
  return error;
}

}  // namespace

AffineParams MinMaxGrid(const MinMax& range, int bits) {
  if (range.low == range.high) return {1.0F, -range.low};
  const int max_code = (1 << bits) - 1;
  const double exact = (static_cast<double>(range.high) - static_cast<double>(range.low)) / max_code;
  const float scale = std::max(static_cast<float>(exact), FLT_MIN);
  const AffineParams rounded = Centred(RoundUpToSignificantBits(scale, kScaleSignificantBits), range, bits);
  if (LevelsAreFinite(rounded, max_code)) return rounded;
  // Only where the range reaches the largest floats: a slightly smaller step clips the ends by less than a step.
  return Centred(scale * (1.0F - 1.0F / 1024.0F), range, bits);
}

AffineParams FittedGrid(const float* w, const float* weight, std::size_t n, const MinMax& range, int bits) {
  const AffineParams min_max = MinMaxGrid(range, bits);
  const double span = static_cast<double>(range.high) - static_cast<double>(range.low);
  if (n < 2 || span < static_cast<double>(FLT_MIN) * 1024 || span > static_cast<double>(FLT_MAX) / 4) return min_max;
  const int max_code = (1 << bits) - 1;
  AffineParams fitted = Kernels().fit_affine(w, weight, n, max_code, range.low, range.high);
  const double zero_point = static_cast<double>(fitted.zero_point);
  fitted.scale = RoundToSignificantBits(fitted.scale, kScaleSignificantBits);
  fitted.zero_point = StoredZeroPoint(zero_point, bits);
  if (!(fitted.scale >= FLT_MIN) || !LevelsAreFinite(fitted, max_code)) return min_max;
  const bool better = SquaredError(w, weight, n, fitted, bits) < SquaredError(w, weight, n, min_max, bits);
  return better ? fitted : min_max;
}

}  // namespace arrow_quant
