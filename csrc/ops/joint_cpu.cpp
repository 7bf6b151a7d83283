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

  static void matrix(const Arguments& a, void* scores) { cpu_kernels().joint.matrix(a.problem, scores); }

  static void matrix_gradient(const Arguments& a, const void* upstream, const JointGradients& gradients) {
    cpu_kernels().joint.matrix_gradient(a.problem, upstream, gradients);
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> joint_ranking(Tensor a, Tensor b, OptionalTensor inner_weight,
                                                         OptionalTensor inner_bias, Tensor last_weight,
                                                         OptionalTensor target, OptionalTensor x_label,
                                                         OptionalTensor y_label, OptionalTensor candidate_log_weight) {
  const Cpu::Arguments tensors{{},         a,      b,       last_weight, inner_weight,
                               inner_bias, target, x_label, y_label,     candidate_log_weight};
  const Cpu::Arguments arguments = Cpu::arguments("joint_ranking", tensors, {});
  check(target.has_value(), "joint_ranking", "target is needed: the column of each row's positive");
  const int64_t n = a.size(0);
  const Tensor positive = new_doubles(a, {n}), negative_lse = new_doubles(a, {n}), entropy = new_doubles(a, {n});
  const Tensor rank = new_integers(a, {n});
  cpu_kernels().joint.ranking(arguments.problem,
                              {doubles(positive), doubles(negative_lse), doubles(entropy), integers(rank)});
  return {positive, negative_lse, entropy, rank};
}

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) {
  JointOperators<Cpu>::implement(library);
  library.impl("joint_ranking", TORCH_BOX(&joint_ranking));
}

}  // namespace
}  // namespace mi
