// Ranks of the positives among each query's own negatives, entropies of their weights and log-sum-exps: one walk.
#include "gathered.h"
#include "gathered_problem.h"
#include "ranking_part.cuh"

namespace mi::cuda {
namespace {

struct Plan {
  const DeviceGatheredProblem& p;
  GatheredParts parts;
  void* results;  // RankingPart [parts][n]

  Plan(const DeviceGatheredProblem& p, Arena& arena) : p(p), parts(p) {
    with_scalar(p.dtype, [&]<class Scalar>(Scalar) { results = arena.take<RankingPart<Scalar>>(parts.count * p.n()); });
  }
};

}  // namespace

size_t gathered_ranking_workspace(const DeviceGatheredProblem& p) {
  Arena arena;
  Plan(p, arena);
  return arena.used;
}

cudaError_t gathered_ranking(const DeviceGatheredProblem& p, const Features& positives, const DotRanking& out,
                             void* workspace, cudaStream_t stream) {
  if (p.n() == 0) return cudaSuccess;
  Arena arena{static_cast<char*>(workspace)};
  const Plan plan(p, arena);
  GatheredWalk walk = walk_over(p);
  walk.positives = gathered_rows(positives, p.dim, p.dtype);
  walk.parts = plan.parts.count, walk.part_size = plan.parts.size;
  walk.results = plan.results;
  Queue queue{stream};
  queue.run([&] { return gathered_kernels(p.dtype).ranking(walk, stream); });
  with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
    queue.each(p.n(), join_rankings<Scalar>, static_cast<const void*>(plan.results), static_cast<int>(plan.parts.count),
               p.n(), out);
  });
  return queue.error;
}

}  // namespace mi::cuda
