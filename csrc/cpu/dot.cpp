// The kernels of dot scores.
#include "dot-walks-inl.h"
#include "families-inl.h"

namespace mi {
namespace MI_ISA {

DotKernels dot_kernels() {
  return {
      [](const DotProblem& p, const DotStatistics& statistics) {
        p.dtype == Dtype::kFloat64 ? dot_statistics<double>(p, statistics) : dot_statistics<float>(p, statistics);
      },
      [](const DotProblem& p, const PartitionWeights& weights, const double* external_positive,
         const DotStatistics& statistics, const DotGradients& g, double* positive_gradient) {
        const auto run = p.dtype == Dtype::kFloat64 ? fused<double> : fused<float>;
        run(p, weights, external_positive, statistics, g, positive_gradient);
      },
      [](const DotProblem& p, const UpstreamGradients& up, const double* positive, const DotGradients& g) {
        const bool wide = p.dtype == Dtype::kFloat64;
        const auto run = up.column_negative_lse ? (wide ? row_column_gradient<double> : row_column_gradient<float>)
                                                : (wide ? row_gradient<double> : row_gradient<float>);
        run(p, up, positive, g);
      },
      [](const DotProblem& p, double* positive, double* value, const DotGradients& g) {
        const auto run = p.dtype == Dtype::kFloat64 ? softplus_sum<double> : softplus_sum<float>;
        run(p, positive, value, g);
      },
  };
}

}  // namespace MI_ISA
}  // namespace mi
