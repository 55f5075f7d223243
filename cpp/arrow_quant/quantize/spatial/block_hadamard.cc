#include "arrow_quant/quantize/spatial/block_hadamard.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace arrow_quant {
namespace {

constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15U;

std::uint64_t SplitMix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

void Hadamard(float* x, std::int64_t n) {
  for (std::int64_t half = 1; half < n; half *= 2) {
    for (std::int64_t begin = 0; begin < n; begin += 2 * half) {
      for (std::int64_t i = begin; i < begin + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const auto factor = static_cast<float>(1 / std::sqrt(static_cast<double>(n)));
  for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}

void HadamardBlocks(float* row, std::int64_t cols) {
  std::int64_t size = kRotationBlock;
  for (std::int64_t begin = 0; begin < cols; begin += size) {
    while (size > cols - begin) size /= 2;
    Hadamard(row + begin, size);
  }
}

void Multiply(const std::vector<float>& signs, float* row) {
  for (std::size_t c = 0; c < signs.size(); ++c) row[c] *= signs[c];
}

}  // namespace

std::vector<float> RotationSigns(std::int64_t cols, std::uint64_t seed) {
  std::vector<float> signs(static_cast<std::size_t>(cols));
  for (std::size_t c = 0; c < signs.size(); ++c)
    signs[c] = SplitMix64(seed + (c + 1) * kGolden) % 2 == 0 ? 1.0F : -1.0F;
  return signs;
}

void RotateRows(MatrixView<float> rows, std::uint64_t seed) {
  const std::vector<float> signs = RotationSigns(rows.cols, seed);
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    Multiply(signs, rows.Row(r));
    HadamardBlocks(rows.Row(r), rows.cols);
  }
}

void UnrotateRows(MatrixView<float> rows, std::uint64_t seed) {
  const std::vector<float> signs = RotationSigns(rows.cols, seed);
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    HadamardBlocks(rows.Row(r), rows.cols);
    Multiply(signs, rows.Row(r));
  }
}

}  // namespace arrow_quant
