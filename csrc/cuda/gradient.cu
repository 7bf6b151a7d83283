// Gradients for any upstream gradient of the statistics, and of softplus sums.
#include <limits>

#include "kernels.h"
#include "products.cuh"

namespace mi::cuda {
namespace {

template <class Scalar>
void make_terms(Queue& queue, const double* lse, const double* gradient, const double* positive, int64_t count,
                const Normalizer* normalizer, const RowTerms& out) {
  queue.each(count + kRowsPastEnd, exponential_terms<Scalar>, lse, gradient, positive, count, normalizer,
             std::numeric_limits<Scalar>::max(), static_cast<Term<Scalar>*>(out.terms),
             static_cast<Scalar*>(out.references));
}

}  // namespace

size_t gradient_workspace(const DeviceDotProblem& p, const UpstreamGradients& up, const DotGradients& g) {
  Arena arena;
  GradientPlan(p, Weights::kFixed, g, true, up.column_negative_lse != nullptr, arena);
  return arena.used;
}

cudaError_t gradient(const DeviceDotProblem& p, const UpstreamGradients& up, const DotGradients& g, void* workspace,
                     cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const bool columns = up.column_negative_lse != nullptr;
  const GradientPlan plan(p, Weights::kFixed, g, true, columns, arena);
  Queue queue{stream};
  plan.sides.fill(queue);
  const double* positive = p.exclusions.target ? up.positive : nullptr;
  queue.one_block(find_normalizer<Normalizer>, GradientVector{up.negative_lse, up.negative_lse ? p.n() : 0},
                  GradientVector{up.column_negative_lse, columns ? p.m() : 0},
                  GradientVector{positive, positive ? p.n() : 0}, plan.kernels.weight_shift, plan.normalizer);
  with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
    make_terms<Scalar>(queue, up.negative_lse_value, up.negative_lse, positive, p.n(), plan.normalizer,
                       plan.query_terms);
    if (columns)
      make_terms<Scalar>(queue, up.column_negative_lse_value, up.column_negative_lse, nullptr, p.m(), plan.normalizer,
                         plan.candidate_terms);
  });
  plan.run(queue, g.scale, [&](const ProductWalk& walk, GradientParams params) {
    params.owner_term = walk.queries_own || columns;
    params.streamed_term = !walk.queries_own || columns;
    params.any_negative = &plan.normalizer->any_negative;
    return params;
  });
  return queue.error;
}

}  // namespace mi::cuda
