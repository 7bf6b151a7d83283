// Three log-sum-exps of rows in one walk, 4nmd flops; and a known objective with its gradients, two more walks of 8nmd.
#include "importance.h"

#include "dispatch.cuh"
#include "importance_forward.cuh"
#include "importance_rows.cuh"
#include "instantiate.cuh"
#include "paired_queries.cuh"
#include "row_walk.cuh"

namespace mi::cuda {
namespace {

struct StatisticsPlan {
  const DeviceImportanceProblem& p;
  PairedQueries paired;
  Sides sides;
  TileShape shape;
  Splits splits;
  int count;  // parts of each row
  void* parts[3];

  StatisticsPlan(const DeviceImportanceProblem& p, Arena& arena)
      : p(p),
        paired(p, arena),
        sides(paired.problem, arena),
        shape(with_traits(p.first.dtype, []<class Traits>(Traits) { return shape_of<typename Traits::Softplus>; })),
        splits(sides.splits(true, shape)),
        count(splits.count * shape.parts) {
    for (void*& part : parts)
      with_scalar(p.first.dtype,
                  [&]<class Scalar>(Scalar) { part = arena.take<RowPart<Scalar>>(count * p.first.n()); });
  }

  ImportanceForwardParams params(const ImportanceStatistics& s) const {
    ImportanceForwardParams params;
    params.walk = sides.walk(true, splits);
    params.second_scale = p.second.scale;
    params.queries = p.first.n();
    for (int h = 0; h < 2; h++) params.positive[h] = p.first.exclusions.target ? s.positive[h] : nullptr;
    for (int k = 0; k < 3; k++) params.parts[k] = parts[k];
    return params;
  }
};

// The gradients of the statistics, and what both parts of the work use one after the other.
struct FusedPlan {
  double* negative_lse[3];
  void* rest;

  FusedPlan(const DeviceImportanceProblem& p, const ImportanceGradients& g, Arena& arena) {
    for (double*& lse : negative_lse) lse = arena.take<double>(p.first.n());
    rest = arena.take_bytes(
        static_cast<int64_t>(std::max(importance_statistics_workspace(p), importance_gradient_workspace(p, g))));
  }
};

}  // namespace

size_t importance_statistics_workspace(const DeviceImportanceProblem& p) {
  Arena arena;
  StatisticsPlan(p, arena);
  return arena.used;
}

cudaError_t importance_statistics(const DeviceImportanceProblem& p, const ImportanceStatistics& s, void* workspace,
                                  cudaStream_t stream) {
  if (p.first.n() == 0) return cudaSuccess;
  Arena arena{static_cast<char*>(workspace)};
  const StatisticsPlan plan(p, arena);
  const ImportanceForwardParams params = plan.params(s);
  Queue queue{stream};
  plan.paired.fill(queue);
  plan.sides.fill(queue);
  for (double* positive : params.positive) clear_positives(queue, positive, params.queries);
  with_traits(p.first.dtype, [&]<class Traits>(Traits) {
    using T = typename Traits::Softplus;
    queue.run([&] { return launch<T>(importance_forward<T>, params, plan.splits.count, 1, stream); });
    for (int k = 0; k < 3; k++)
      queue.each(params.queries, join_rows<typename T::Scalar>, static_cast<const void*>(plan.parts[k]), plan.count,
                 params.queries, s.negative_lse[k]);
  });
  return queue.error;
}

size_t importance_fused_workspace(const DeviceImportanceProblem& p, const ImportanceGradients& g) {
  Arena arena;
  FusedPlan(p, g, arena);
  return arena.used;
}

cudaError_t importance_fused(const DeviceImportanceProblem& p, const ImportanceObjective& objective,
                             const ImportanceStatistics& s, const ImportanceGradients& g,
                             double* const* positive_gradient, double* loss, double* terms, void* workspace,
                             cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const FusedPlan plan(p, g, arena);
  Queue queue{stream};
  queue.run([&] { return importance_statistics(p, s, plan.rest, stream); });

  ImportanceStatistics rows = s, gradient;
  ImportanceUpstream up;
  for (int h = 0; h < 2; h++) {
    if (!p.first.exclusions.target) rows.positive[h] = const_cast<double*>(objective.external_positive[h]);
    up.positive[h] = gradient.positive[h] = positive_gradient[h];
  }
  for (int k = 0; k < 3; k++) up.negative_lse[k] = gradient.negative_lse[k] = plan.negative_lse[k];
  up.weights_detached = objective.weights_detached;
  queue.one_block(importance_objective<double>, p.first.n(), rows, objective, loss, terms, gradient);
  queue.run([&] { return importance_gradient(p, s, up, g, plan.rest, stream); });
  return queue.error;
}

}  // namespace mi::cuda
