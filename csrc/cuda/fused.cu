// A loss over log-partitions with its gradients, 8nmd flops: one walk sums the rows' exponentials and, with them, the
// products that the gradient of the queries needs; once the weight of every row is known, another gives that of the
// candidates.
#include "kernels.h"
#include "products.cuh"
#include "row_walk.cuh"

namespace mi::cuda {
namespace {

struct Plan {
  Sides sides;
  ProductWalk queries;
  void* parts;         // RowPart [splits][n]
  double* row_weight;  // [n] dL/da_i
  double* scale_part;  // [n]
  double* no_scale;
  void* rest;  // of the walk that the candidates own

  Plan(const DeviceDotProblem& p, const DotGradients& g, Arena& arena)
      : sides(p, arena),
        queries(sides, Weights::kOnline, true, g.queries, arena),
        parts(arena.take_bytes(queries.splits.count * p.n() * 2 * pairwise_kernels(p.dtype).scalar_bytes)),
        row_weight(arena.take<double>(p.n())),
        scale_part(arena.take<double>(p.n())),
        no_scale(arena.take<double>(1)),
        rest(arena.take_bytes(g.candidates ? static_cast<int64_t>(gradient_workspace(p, {}, of_candidates(g))) : 0)) {}

  static DotGradients of_candidates(const DotGradients& g) { return {nullptr, g.candidates, nullptr, nullptr}; }
};

}  // namespace

size_t fused_workspace(const DeviceDotProblem& p, const DotGradients& g) {
  Arena arena;
  Plan(p, g, arena);
  return arena.used;
}

cudaError_t fused(const DeviceDotProblem& p, const PartitionWeights& weights, const double* external_positive,
                  const DotStatistics& s, const DotGradients& g, double* positive_gradient, double* loss,
                  void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const Plan plan(p, g, arena);
  Queue queue{stream};
  plan.sides.fill(queue);
  if (p.exclusions.target) clear_positives(queue, s.positive, p.n());
  GradientParams params = plan.queries.params({}, {});
  params.positive = p.exclusions.target ? s.positive : nullptr;
  params.parts = plan.parts;
  plan.queries.run(queue, params);
  with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
    queue.each(p.n(), join_rows<Scalar>, plan.parts, plan.queries.splits.count, p.n(), s.negative_lse);
  });

  const double* positive = p.exclusions.target ? s.positive : external_positive;
  queue.one_block(partition<double>, p.n(), positive, static_cast<const double*>(s.negative_lse), weights, loss,
                  positive_gradient, plan.row_weight);
  const OnlineRows rows{plan.parts,          s.negative_lse,    plan.row_weight,
                        p.exclusions.target, positive_gradient, p.candidates};
  plan.queries.finish(queue, nullptr, plan.scale_part, rows);
  queue.one_block(sum_values<double>, static_cast<const double*>(plan.scale_part), p.n(), g.scale);
  if (!g.candidates) return queue.error;

  const UpstreamGradients up{s.negative_lse, plan.row_weight, nullptr, nullptr, positive_gradient};
  DotGradients candidates = Plan::of_candidates(g);
  candidates.scale = plan.no_scale;
  queue.run([&] { return gradient(p, up, candidates, plan.rest, stream); });
  return queue.error;
}

}  // namespace mi::cuda
