#pragma once

#include <cstddef>

namespace arrow_quant {
namespace {

// A block of 16 lanes of which memory holds the first `left` or, when left >= 16, all.
inline VecF LoadBlock(const float* p, std::size_t left, const VecF& fill) {
  return left >= kLanes ? Load(p) : LoadPartial(p, left, fill);
}

inline void StoreBlock(float* p, const VecF& v, std::size_t left) {
  if (left >= kLanes) {
    Store(p, v);
  } else {
    StorePartial(p, v, left);
  }
}

}  // namespace
}  // namespace arrow_quant
