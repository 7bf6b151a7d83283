// Log-sum-exps of rows and columns: two walks, the queries owning the first and the candidates the second.
#include <optional>

#include "kernels.h"
#include "row_walk.cuh"

namespace mi::cuda {
namespace {

struct Plan {
  Sides sides;
  RowWalk rows;
  std::optional<RowWalk> columns;

  Plan(const DeviceDotProblem& p, const DotStatistics& s, Arena& arena)
      : sides(p, arena), rows(sides, Reduction::kLogSumExp, true, arena) {
    if (s.column_negative_lse) columns.emplace(sides, Reduction::kLogSumExp, false, arena);
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
  run(queue, plan.rows, s.clip, positive, s.negative_lse);
  if (plan.columns) run(queue, *plan.columns, s.clip, nullptr, s.column_negative_lse);
  return queue.error;
}

}  // namespace mi::cuda
