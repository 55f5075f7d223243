#pragma once

// Weighted least squares for the affine grid of one group. The search works on d = (w - middle) * unit, unit a power of
// two that brings the range to [1, 2): exact scaling keeps sums of squares in range for groups from 1e-38 to 1e38, and
// taking off the middle first keeps digits for groups far from zero. In these units a grid is d = slope * code +
// offset.

#include <cstddef>
#include <cstdint>

#include "arrow_quant/kernels/affine-inl.h"
#include "arrow_quant/kernels/block-inl.h"
#include "arrow_quant/kernels/kernel_table.h"

namespace arrow_quant {
namespace {

constexpr int kStarts = 10;
constexpr int kSteps = 8;
constexpr double kSmallestShrink = 0.4;
constexpr float kLargestFloat = 3.40282347e+38f;

// Lane-by-lane 1 for partial blocks of a group without weights.
alignas(64) constexpr float kOnes[kLanes] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

struct Block {
  VecF value;   // d; 0 beyond the end
  VecF weight;  // in [0, 1]; 0 beyond the end
};

// A group as the caller gave it. Blocks are normalized as they are read.
struct RawGroup {
  const float* w;
  const float* weight;  // null: ones
  std::size_t n;
  float middle;
  float unit;
  float largest_weight;

  std::size_t blocks() const { return (n + kLanes - 1) / kLanes; }

  Block At(std::size_t block) const {
    const std::size_t i = block * kLanes;
    const VecF mid = Set1(middle);
    const VecF x = LoadBlock(w + i, n - i, mid);
    return {Mul(Sub(x, mid), Set1(unit)), WeightAt(i)};
  }

 private:
  VecF WeightAt(std::size_t i) const {
    const float* p = weight == nullptr ? kOnes : weight + i;
    const VecF g = LoadBlock(p, n - i, Set1(0.0f));
    return weight == nullptr ? g : Div(g, Set1(largest_weight));
  }
};

// The same blocks, computed once; for the usual sizes, which stay in the first-level cache.
struct CachedGroup {
  static constexpr std::size_t kMaxBlocks = 64;
  alignas(64) float value[kMaxBlocks * kLanes];
  alignas(64) float weight[kMaxBlocks * kLanes];
  std::size_t count;

  std::size_t blocks() const { return count; }

  void Fill(const RawGroup& raw) {
    count = raw.blocks();
    for (std::size_t b = 0; b < count; ++b) {
      const Block block = raw.At(b);
      Store(value + b * kLanes, block.value);
      Store(weight + b * kLanes, block.weight);
    }
  }

  Block At(std::size_t block) const { return {Load(value + block * kLanes), Load(weight + block * kLanes)}; }
};

// Sums that do not depend on codes.
struct Moments {
  double value;           // sum g * d
  double mean;            // of d
  double inverse_weight;  // 1 / sum g
};

template <typename Group>
Moments MomentsOf(const Group& group) {
  VecF weight = Set1(0.0f);
  VecF value = weight;
  for (std::size_t b = 0; b < group.blocks(); ++b) {
    const Block block = group.At(b);
    weight = Add(weight, block.weight);
    value = Add(value, Mul(block.weight, block.value));
  }
  const double sum = ReduceAdd(value);
  const double inverse_weight = 1.0 / ReduceAdd(weight);
  return {sum, sum * inverse_weight, inverse_weight};
}

// d = slope * code + offset, and its inverse code = d * inverse + shift in the precision of the lanes.
struct Line {
  double slope;
  double offset;
  float inverse;
  float shift;
};

inline Line MakeLine(double slope, double inverse, double offset) {
  return {slope, offset, static_cast<float>(inverse), static_cast<float>(-offset * inverse)};
}

inline bool SameCodes(const Line& a, const Line& b) { return a.inverse == b.inverse && a.shift == b.shift; }

struct LineVec {
  VecF inverse;
  VecF shift;
  VecF top;

  VecF NearestCode(VecF d) const { return Round(Min(Max(Add(Mul(d, inverse), shift), Set1(0.0f)), top)); }
};

inline LineVec ToVec(const Line& line, int max_code) {
  return {Set1(line.inverse), Set1(line.shift), Set1(static_cast<float>(max_code))};
}

// The best line for the nearest codes of `line`. False when there is none: all codes are the same.
template <typename Group>
bool Refit(const Group& group, const Moments& moments, int max_code, const Line& line, Line* refitted) {
  const LineVec lane = ToVec(line, max_code);
  VecF sum_c = Set1(0.0f);
  VecF sum_cc = sum_c;
  VecF sum_cd = sum_c;
  const std::size_t blocks = group.blocks();
  for (std::size_t b = 0; b < blocks; ++b) {
    const Block block = group.At(b);
    const VecF code = lane.NearestCode(block.value);
    const VecF weighted = Mul(block.weight, code);
    sum_c = Add(sum_c, weighted);
    sum_cc = Add(sum_cc, Mul(weighted, code));
    sum_cd = Add(sum_cd, Mul(weighted, block.value));
  }
  const double c = ReduceAdd(sum_c);
  const double cc = ReduceAdd(sum_cc);
  const double cd = ReduceAdd(sum_cd);
  const double mean_code = c * moments.inverse_weight;
  const double variance = cc - c * mean_code;
  const double covariance = cd - moments.value * mean_code;
  // Below this the variance is only the rounding error of the sums.
  if (!(variance > 1e-6 * cc) || !(covariance > 0)) return false;
  const double slope = covariance / variance;
  *refitted = MakeLine(slope, variance / covariance, moments.mean - slope * mean_code);
  return true;
}

template <typename Group>
float SquaredError(const Group& group, int max_code, const Line& line) {
  const LineVec lane = ToVec(line, max_code);
  const VecF slope = Set1(static_cast<float>(line.slope));
  const VecF offset = Set1(static_cast<float>(line.offset));
  VecF sum = Set1(0.0f);
  for (std::size_t b = 0; b < group.blocks(); ++b) {
    const Block block = group.At(b);
    const VecF code = lane.NearestCode(block.value);
    const VecF error = Sub(block.value, Add(Mul(slope, code), offset));
    sum = Add(sum, Mul(block.weight, Mul(error, error)));
  }
  return ReduceAdd(sum);
}

// The lines of all starts. `live` lists those that are neither at rest nor on the path of an earlier start, `distinct`
// those that are not on such a path.
struct Search {
  Line lines[kStarts];
  bool distinct[kStarts];
  int live[kStarts];
  int live_count;
};

inline void SetStarts(Search* search, int max_code, double low, double high) {
  for (int k = 0; k < kStarts; ++k) {
    const double range = (high - low) * (1.0 - k * (1.0 - kSmallestShrink) / (kStarts - 1));
    search->lines[k] = MakeLine(range / max_code, max_code / range, (low + high - range) * 0.5);
    search->distinct[k] = true;
    search->live[k] = k;
  }
  search->live_count = kStarts;
}

inline bool MeetsEarlierStart(const Search& search, int k) {
  for (int j = 0; j < k; ++j) {
    if (SameCodes(search.lines[j], search.lines[k])) return true;
  }
  return false;
}

// One step of every live start. Neighbouring refits do not depend on each other, which keeps the processor busy.
template <typename Group>
void Step(const Group& group, const Moments& moments, int max_code, Search* search) {
  int still_live = 0;
  for (int i = 0; i < search->live_count; ++i) {
    const int k = search->live[i];
    Line next;
    if (!Refit(group, moments, max_code, search->lines[k], &next)) continue;
    const bool at_rest = SameCodes(search->lines[k], next);
    search->lines[k] = next;
    if (at_rest) continue;
    search->distinct[k] = !MeetsEarlierStart(*search, k);
    if (search->distinct[k]) search->live[still_live++] = k;
  }
  search->live_count = still_live;
}

template <typename Group>
Line BestLine(const Group& group, int max_code, double low, double high) {
  const Moments moments = MomentsOf(group);
  Search search;
  SetStarts(&search, max_code, low, high);
  for (int step = 0; step < kSteps && search.live_count > 0; ++step) Step(group, moments, max_code, &search);
  int best = 0;
  float least = SquaredError(group, max_code, search.lines[0]);
  for (int k = 1; k < kStarts; ++k) {
    if (!search.distinct[k]) continue;
    const float error = SquaredError(group, max_code, search.lines[k]);
    if (error < least) {
      least = error;
      best = k;
    }
  }
  return search.lines[best];
}

inline Line BestLine(const RawGroup& raw, int max_code, double low, double high) {
  if (raw.blocks() > CachedGroup::kMaxBlocks) return BestLine<RawGroup>(raw, max_code, low, high);
  CachedGroup cached;
  cached.Fill(raw);
  return BestLine<CachedGroup>(cached, max_code, low, high);
}

// Weighted squared error as quantize and dequantize compute it.
double GridError(const float* w, const float* weight, std::size_t n, int max_code, AffineParams grid) {
  const AffineVec g = ToVec(grid, max_code);
  VecD sum = ZeroD();
  for (std::size_t i = 0; i < n; i += kLanes) {
    const VecF zero = Set1(0.0f);
    const VecF x = LoadBlock(w + i, n - i, zero);
    const VecF factor = LoadBlock(weight == nullptr ? kOnes : weight + i, n - i, zero);
    const VecD error = SubD(ToDouble(x), ToDouble(ValueOf(Round(RealCode(x, g)), g)));
    sum = AddProduct(sum, MulD(error, error), ToDouble(factor));
  }
  return ReduceAdd(sum);
}

float LargestOf(const float* x, std::size_t n) {
  VecF largest = Set1(0.0f);
  for (std::size_t i = 0; i < n; i += kLanes) largest = Max(LoadBlock(x + i, n - i, Set1(0.0f)), largest);
  return ReduceMax(largest);
}

// The power of two that brings a positive normal float into [1, 2); into [2, 4) for the highest binade, whose power
// would be denormal.
inline float UnitFor(float range) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &range, sizeof(bits));
  const std::uint32_t exponent = bits >> 23;
  const std::uint32_t unit_bits = (exponent < 253 ? 254 - exponent : 1u) << 23;
  float unit;
  __builtin_memcpy(&unit, &unit_bits, sizeof(unit));
  return unit;
}

AffineParams FitAffine(const float* w, const float* weight, std::size_t n, int max_code, float low,
                       float high) noexcept {
  const float range = high - low;
  const float unit = UnitFor(range);
  const float middle = low + range * 0.5f;
  const float largest_weight = weight == nullptr ? 1.0f : LargestOf(weight, n);
  if (!(largest_weight > 0 && largest_weight <= kLargestFloat)) weight = nullptr;

  const RawGroup group{w, weight, n, middle, unit, largest_weight};
  const Line line =
      BestLine(group, max_code, static_cast<double>(low - middle) * unit, static_cast<double>(high - middle) * unit);

  const double zero_value = line.offset + static_cast<double>(middle) * unit;
  const AffineParams fitted{static_cast<float>(line.slope / unit), static_cast<float>(-zero_value / line.slope)};
  const float full_scale = range / static_cast<float>(max_code);
  const AffineParams full{full_scale, -low / full_scale};
  const bool better = GridError(w, weight, n, max_code, fitted) <= GridError(w, weight, n, max_code, full);
  return better ? fitted : full;
}

}  // namespace
}  // namespace arrow_quant
