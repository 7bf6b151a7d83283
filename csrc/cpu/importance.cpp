// The kernels of importance.
#include "families-inl.h"
#include "importance-walks-inl.h"

namespace mi {
namespace MI_ISA {

ImportanceKernels importance_kernels() {
  return {
      [](const ImportanceProblem& p, const ImportanceStatistics& statistics) {
        const bool wide = p.first.dtype == Dtype::kFloat64;
        (wide ? importance_statistics<double> : importance_statistics<float>)(p, statistics);
      },
      [](const ImportanceProblem& p, const ImportanceObjective& objective, const ImportanceStatistics& statistics,
         const ImportanceGradients& g, double* const* positive_gradient) {
        const bool wide = p.first.dtype == Dtype::kFloat64;
        (wide ? importance_fused<double> : importance_fused<float>)(p, objective, statistics, g, positive_gradient);
      },
      [](const ImportanceProblem& p, const ImportanceStatistics& statistics, const ImportanceUpstream& up,
         const ImportanceGradients& g) {
        const bool wide = p.first.dtype == Dtype::kFloat64;
        (wide ? importance_gradient<double> : importance_gradient<float>)(p, statistics, up, g);
      },
  };
}

}  // namespace MI_ISA
}  // namespace mi
