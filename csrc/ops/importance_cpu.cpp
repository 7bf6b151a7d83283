// The operators on two query sets with the same candidates, on the CPU.
#include "../cpu/kernels.h"
#include "importance_operators.h"

namespace mi {
namespace {

struct Cpu {
  using Arguments = DotArguments;
  using Problem = ImportanceProblem;

  static Arguments arguments(const char* op, const Tensor& x, const Tensor& y, const Tensor& scale,
                             const OptionalTensor&, const OptionalTensor& target, const OptionalTensor& x_label,
                             const OptionalTensor& y_label, const OptionalTensor& candidate_log_weight, bool) {
    return dot_arguments(op, x, y, scale, target, x_label, y_label, candidate_log_weight);
  }

  static void statistics(const ImportanceArguments<Cpu>& a, const ImportanceStatistics& statistics) {
    cpu_kernels().importance.statistics(a.problem, statistics);
  }

  static void fused(const ImportanceArguments<Cpu>& a, const ImportanceObjective& objective,
                    const ImportanceStatistics& statistics, const ImportanceGradients& gradients,
                    double* const* positive_gradient, double* loss, double* terms) {
    cpu_kernels().importance.fused(a.problem, objective, statistics, gradients, positive_gradient);
    terms[0] = terms[1] = terms[2] = 0;
    const auto positive = a.first.target ? statistics.positive : objective.external_positive;
    for (int64_t i = 0; i < a.problem.first.n(); i++)
      add_importance_terms(importance_row(i, positive, statistics.negative_lse), objective.log_mass[i], terms);
    *loss = importance_loss(terms, objective);
  }

  static void gradient(const ImportanceArguments<Cpu>& a, const ImportanceStatistics& statistics,
                       const ImportanceUpstream& upstream, const ImportanceGradients& gradients) {
    cpu_kernels().importance.gradient(a.problem, statistics, upstream, gradients);
  }
};

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) { ImportanceOperators<Cpu>::implement(library); }

}  // namespace
}  // namespace mi
