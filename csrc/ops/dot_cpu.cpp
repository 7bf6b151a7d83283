// The dot operators on the CPU.
#include "../cpu/kernels.h"
#include "dot_operators.h"

namespace mi {
namespace {

struct Cpu {
  using Arguments = DotArguments;

  static Arguments arguments(const char* op, const Tensor& x, const Tensor& y, const Tensor& scale,
                             const OptionalTensor& bias, const OptionalTensor& target, const OptionalTensor& x_label,
                             const OptionalTensor& y_label, const OptionalTensor& candidate_log_weight, bool) {
    Arguments a = dot_arguments(op, x, y, scale, target, x_label, y_label, candidate_log_weight);
    if (bias) a.problem.bias = scalar_value(op, "bias", *bias);
    return a;
  }

  static void statistics(const Arguments& a, const DotStatistics& statistics) {
    cpu_kernels().dot.statistics(a.problem, statistics);
  }

  static void fused(const Arguments& a, const PartitionWeights& weights, const double* external_positive,
                    const DotStatistics& statistics, const DotGradients& gradients, double* positive_gradient,
                    double* loss) {
    cpu_kernels().dot.fused(a.problem, weights, external_positive, statistics, gradients, positive_gradient);
    *loss = partition_loss(a.problem.n(), external_positive ? external_positive : statistics.positive,
                           statistics.negative_lse, weights);
  }

  static void gradient(const Arguments& a, const UpstreamGradients& upstream, const double* positive,
                       const DotGradients& gradients) {
    cpu_kernels().dot.gradient(a.problem, upstream, positive, gradients);
  }

  static void softplus_sum(const Arguments& a, double* positive, double* value, const DotGradients& gradients) {
    cpu_kernels().dot.softplus_sum(a.problem, positive, value, gradients);
  }
};

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) { DotOperators<Cpu>::implement(library); }

}  // namespace
}  // namespace mi
