#pragma once

#include <cstdint>
#include <vector>

namespace arrow_quant {

// Running figures of all values of one kind; the variance is by Welford's and Chan's updates, which do not cancel.
struct Moments {
  double count = 0;
  double mean = 0;
  double m2 = 0;  // sum of squared deviations
  float min = 0;
  float max = 0;

  void Merge(const Moments& other);
  double Std() const;  // of the population; 0 without values
};

// Figures of each column of rows [count, channels], count >= 1.
std::vector<Moments> ColumnMoments(const float* rows, std::int64_t count, std::int64_t channels);

}  // namespace arrow_quant
