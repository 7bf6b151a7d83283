// Log-sum-exps of rows, or of rows and columns.
#include <optional>

#include "kernels.h"
#include "two_sided_walk.cuh"

namespace mi::cuda {
namespace {

struct Plan {
  Sides sides;
  std::optional<RowWalk> rows;
  std::optional<TwoSidedWalk> both;

  Plan(const DeviceDotProblem& p, const DotStatistics& s, Arena& arena) : sides(p, arena) {
    if (s.column_negative_lse)
      both.emplace(sides, arena);
    else
      rows.emplace(sides, Reduction::kLogSumExp, true, arena);
  }
};

void run(Queue& queue, const RowWalk& walk, double clip, double* positive, double* lse) {
  ForwardParams params = walk.params(positive);
  params.walk.clip = clip;
  walk.run(queue, params);
  with_scalar(walk.sides.p.dtype, [&]<class Scalar>(Scalar) {
    queue.each(walk.rows, join_rows<Scalar>, walk.parts, walk.count, walk.rows, lse);
  });
}

}  // namespace

size_t statistics_workspace(const DeviceDotProblem& p, const DotStatistics& s) {
  Arena arena;
  Plan(p, s, arena);
  return arena.used;
}

cudaError_t statistics(const DeviceDotProblem& p, const DotStatistics& s, void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const Plan plan(p, s, arena);
  Queue queue{stream};
  double* positive = p.exclusions.target ? s.positive : nullptr;
  plan.sides.fill(queue);
  clear_positives(queue, positive, p.n());
  if (plan.both)
    plan.both->run(queue, s.clip, positive, s.negative_lse, s.column_negative_lse);
  else
    run(queue, *plan.rows, s.clip, positive, s.negative_lse);
  return queue.error;
}

}  // namespace mi::cuda
