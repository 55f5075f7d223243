#include "arrow_quant/quantize/rounding/ldlq.h"

#include <algorithm>
#include <cstring>

#include "arrow_quant/linalg/blas.h"
#include "arrow_quant/quantize/rounding/group_grids.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kBlock = 128;

// Columns of a panel in the order of visits.
class Sweep {
 public:
  Sweep(Panel& panel, const RoundingProblem& problem, std::int64_t widest)
      : panel_(panel),
        problem_(problem),
        errors_(panel.error.size()),
        weight_(static_cast<std::size_t>(widest * panel.stride)),
        sum_(weight_.size()),
        delta_(weight_.size()),
        codes_(weight_.size()) {}

  void Round(std::int64_t begin, std::int64_t count) {
    GatherWeights(begin, count);
    GatherFeedback(begin, count);
    if (problem_.compensated_grids) FitCompensated(begin, count);
    float* error = errors_.data() + begin * panel_.stride;
    std::fill_n(error, count * panel_.stride, 0.0F);
    RoundRange(panel_, problem_,
               {count, weight_.data(), problem_.ones.data(), problem_.group_of_visit.data() + begin,
                Coupling(begin, count), sum_.data(), error, codes_.data()},
               delta_.data());
    Scatter(begin, count);
  }

 private:
  std::int64_t VisitedColumn(std::int64_t k) const { return problem_.visits[static_cast<std::size_t>(k)]; }

  MatrixView<const float> Coupling(std::int64_t begin, std::int64_t count) const {
    if (problem_.factor.diagonal) return {};
    return problem_.factor.View().Rows(begin, count).Cols(begin, count);
  }

  void GatherWeights(std::int64_t begin, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k) {
      const float* from = panel_.weight.data() + VisitedColumn(begin + k) * panel_.stride;
      std::copy_n(from, panel_.stride, weight_.data() + k * panel_.stride);
    }
  }

  void GatherFeedback(std::int64_t begin, std::int64_t count) {
    const MatrixView<float> sum(sum_.data(), count, panel_.stride);
    if (begin == 0 || problem_.factor.diagonal) {
      std::fill_n(sum.data, sum.size(), 0.0F);
      return;
    }
    Gemm<float>(Transpose::kNo, Transpose::kNo, 1, problem_.factor.View().Rows(begin, count).Cols(0, begin),
                {errors_.data(), begin, panel_.stride}, 0, sum);
  }

  void FitCompensated(std::int64_t begin, std::int64_t count) {
    std::copy_n(sum_.data(), count * panel_.stride, delta_.data());
    if (!problem_.factor.diagonal)
      TrsmLower<float>(Side::kLeft, Transpose::kNo, Diagonal::kUnit, Coupling(begin, count),
                       {delta_.data(), count, panel_.stride});
    for (std::int64_t i = 0; i < count * panel_.stride; ++i) {
      delta_[static_cast<std::size_t>(i)] += weight_[static_cast<std::size_t>(i)];
    }
    FitGroup(panel_, problem_, problem_.group_of_visit[static_cast<std::size_t>(begin)], delta_.data(),
             problem_.factor.pivots.data() + begin);
  }

  void Scatter(std::int64_t begin, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t to = VisitedColumn(begin + k) * panel_.stride;
      std::copy_n(errors_.data() + (begin + k) * panel_.stride, panel_.stride, panel_.error.data() + to);
      std::copy_n(codes_.data() + k * panel_.stride, panel_.stride, panel_.codes.data() + to);
    }
  }

  Panel& panel_;
  const RoundingProblem& problem_;
  AlignedVector<float> errors_;  // [cols][stride] in the order of visits
  AlignedVector<float> weight_;  // of one block, as all that follow
  AlignedVector<float> sum_;
  AlignedVector<float> delta_;
  AlignedVector<std::uint8_t> codes_;
};

}  // namespace

void RoundLdlq(Panel& panel, const RoundingProblem& problem) {
  const std::int64_t block = problem.compensated_grids ? problem.group_size : std::min(kBlock, problem.cols());
  Sweep sweep(panel, problem, block);
  for (std::int64_t begin = 0; begin < problem.cols(); begin += block) {
    sweep.Round(begin, std::min(block, problem.cols() - begin));
  }
}

}  // namespace arrow_quant
