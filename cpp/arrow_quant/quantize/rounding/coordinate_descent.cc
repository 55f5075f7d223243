#include "arrow_quant/quantize/rounding/coordinate_descent.h"

#include "arrow_quant/linalg/blas.h"
#include "arrow_quant/quantize/rounding/refit.h"

namespace arrow_quant {
namespace {

void DescendGroup(Panel& panel, const RoundingProblem& problem, std::int64_t group, GroupScratch& scratch) {
  const std::int64_t begin = problem.GroupBegin(group);
  const std::int64_t count = problem.GroupCount(group);
  const std::int64_t at = begin * panel.stride;
  const MatrixView<const float> h(problem.hessian.data(), problem.cols(), problem.cols());
  const MatrixView<const float> errors(panel.error.data(), problem.cols(), panel.stride);
  Gemm<float>(Transpose::kNo, Transpose::kNo, 1, h.Rows(begin, count), errors, 0,
              {scratch.sum.data(), count, panel.stride});
  RefitGroup(panel, problem, group, scratch);
  RoundRange(
      panel, problem,
      {count, panel.weight.data() + at, problem.inverse_diagonal.data() + begin, problem.group_of_column.data() + begin,
       h.Rows(begin, count).Cols(begin, count), scratch.sum.data(), panel.error.data() + at, panel.codes.data() + at},
      scratch.delta.data());
}

}  // namespace

void RefinePanel(Panel& panel, const RoundingProblem& problem) {
  GroupScratch scratch(panel, problem);
  for (std::int64_t group = 0; group < problem.groups; ++group) DescendGroup(panel, problem, group, scratch);
}

}  // namespace arrow_quant
