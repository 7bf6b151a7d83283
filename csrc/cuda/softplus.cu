// Softplus sums over negatives, and their gradients.
#include "kernels.h"
#include "products.cuh"
#include "row_walk.cuh"

namespace mi::cuda {
namespace {

struct Plan {
  GradientPlan gradients;
  RowWalk values;

  Plan(const DeviceDotProblem& p, const DotGradients& g, Arena& arena)
      : gradients(p, Weights::kSoftplus, g, false, true, arena),
        values(gradients.sides, Reduction::kSoftplus, true, arena) {}
};

// value = sum of all parts, weight = that of their derivatives. normalizer null: in units of 1.
template <class Scalar>
__global__ void __launch_bounds__(kBlockThreads)
    sum_parts(const void* parts, int64_t count, const Normalizer* normalizer, double* value, double* weight) {
  RowPart<double> sum{0, 0};
  for (int64_t k = threadIdx.x; k < count; k += kBlockThreads) {
    const RowPart<Scalar> part = static_cast<const RowPart<Scalar>*>(parts)[k];
    sum = {sum.reference + part.reference, sum.sum + part.sum};
  }
  sum = join_block(sum, [](RowPart<double> a, RowPart<double> b) {
    return RowPart<double>{a.reference + b.reference, a.sum + b.sum};
  });
  if (threadIdx.x == 0) {
    const double unit = normalizer ? normalizer->unit : 1;
    *value = unit * sum.reference;
    *weight = unit * sum.sum;
  }
}

// Here log-weights multiply; they are part of the terms.
Walk without_log_weights(Walk walk) {
  walk.owner.log_weight = walk.streamed.log_weight = nullptr;
  return walk;
}

}  // namespace

size_t softplus_sum_workspace(const DeviceDotProblem& p, const DotGradients& g) {
  Arena arena;
  Plan(p, g, arena);
  return arena.used;
}

cudaError_t softplus_sum(const DeviceDotProblem& p, double* positive, double* value, const DotGradients& g,
                         void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const Plan plan(p, g, arena);
  const GradientPlan& gradients = plan.gradients;
  const double* log_weight = p.exclusions.candidate_log_weight;
  Queue queue{stream};
  gradients.sides.fill(queue);
  if (!p.exclusions.target) positive = nullptr;
  clear_positives(queue, positive, p.n());
  queue.one_block(find_softplus_normalizer<Normalizer>, log_weight, p.m(), gradients.kernels.weight_shift,
                  gradients.normalizer);
  with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
    queue.each(p.m(), softplus_terms<Scalar>, log_weight, p.m(), gradients.normalizer,
               static_cast<Term<Scalar>*>(gradients.candidate_terms.terms));
  });

  ForwardParams params = plan.values.params(positive);
  params.walk = without_log_weights(params.walk);
  if (log_weight) params.walk.streamed.terms = gradients.candidate_terms.terms;
  plan.values.run(queue, params);
  with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
    queue.one_block(sum_parts<Scalar>, static_cast<const void*>(plan.values.parts),
                    plan.values.rows * plan.values.count,
                    static_cast<const Normalizer*>(log_weight ? gradients.normalizer : nullptr), value, g.bias);
  });

  gradients.run(queue, g.scale, [&](const ProductWalk& walk, GradientParams params) {
    params.walk = without_log_weights(params.walk);
    params.owner_term = !walk.queries_own;
    params.streamed_term = walk.queries_own;
    params.unit = &gradients.normalizer->unit;
    return params;
  });
  return queue.error;
}

}  // namespace mi::cuda
