// The joint operators on the CPU.
#include "../cpu/kernels.h"
#include "joint_operators.h"

namespace mi {
namespace {

struct Cpu {
  using Problem = JointProblem;
  using Arguments = JointArgumentsOf<Problem>;

  static Arguments arguments(const char* op, Arguments a, const OptionalTensor& bias) {
    describe(op, a);
    JointProblem& p = a.problem;
    p.threads = static_cast<int>(torch::stable::get_num_threads());
    if (p.exclusions.target) check_targets(op, p.exclusions.target, p.n(), p.m());
    if (bias) p.bias = scalar_value(op, "bias", *bias);
    return a;
  }

  static void statistics(const Arguments& a, const JointStatistics& statistics) {
    cpu_kernels().joint.statistics(a.problem, statistics);
  }

  static void fused(const Arguments& a, const PartitionWeights& weights, const JointStatistics& statistics,
                    const JointGradients& gradients, double* loss) {
    cpu_kernels().joint.fused(a.problem, weights, statistics, gradients);
    *loss = partition_loss(a.problem.n(), statistics.positive, statistics.negative_lse, weights);
  }

  static void gradient(const Arguments& a, const UpstreamGradients& upstream, const JointGradients& gradients) {
    cpu_kernels().joint.gradient(a.problem, upstream, gradients);
  }

  static void softplus_sum(const Arguments& a, double* value, const JointGradients* gradients, double* bias_gradient) {
    cpu_kernels().joint.softplus_sum(a.problem, value, gradients, bias_gradient);
  }

  static void ranking(const Arguments& a, const DotRanking& ranking) {
    cpu_kernels().joint.ranking(a.problem, ranking);
  }

  static void matrix(const Arguments& a, void* scores) { cpu_kernels().joint.matrix(a.problem, scores); }

  static void matrix_gradient(const Arguments& a, const void* upstream, const JointGradients& gradients) {
    cpu_kernels().joint.matrix_gradient(a.problem, upstream, gradients);
  }
};

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) { JointOperators<Cpu>::implement(library); }

}  // namespace
}  // namespace mi
