// Ranks of the positives by a joint critic and entropies of the negatives' weights, block by block, once the scores of
// the positives are known by the same arithmetic: equal vectors are exactly ties.
#pragma once
#include "joint_passes.cuh"
#include "ranking_part.cuh"

namespace mi::cuda {

// parts [parts of a row][rows of the block]. Negatives come without log-weights: these say how often a negative counts,
// not how it ranks.
template <class Scalar>
__global__ void __launch_bounds__(kRowThreads)
    row_rankings(PairBlock block, Negatives<Scalar> negatives, const double* positive, RankingPart<Scalar>* parts) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRowsTogether + threadIdx.x / 32;
  if (r >= block.rows) return;
  const int64_t i = block.first_row + r, first = static_cast<int64_t>(blockIdx.y) * kPartColumns + threadIdx.x % 32;
  const auto row = negatives.row(i);
  const double* log_weight = negatives.exclusions.candidate_log_weight;
  const Scalar* scores = pair_row<Scalar>(block, r);
  const Scalar threshold = rank_threshold(static_cast<Scalar>(positive[i]));
  Scalar s[kLaneColumns], highest = static_cast<Scalar>(-kInfinity);
  RankingPart<Scalar> part;
#pragma unroll
  for (int q = 0; q < kLaneColumns; q++) {
    const int64_t c = first + 32 * q, j = block.first_column + c;
    s[q] = static_cast<Scalar>(-kInfinity);
    if (c >= block.columns) continue;
    s[q] = negatives(row, j, scores[c]);
    part.above += !(s[q] < threshold);
    if (log_weight && s[q] != -kInfinity) s[q] += static_cast<Scalar>(log_weight[j]);  // no -inf + inf
    highest = fmax(highest, s[q]);
  }
  for (int mask = 16; mask > 0; mask /= 2) highest = fmax(highest, __shfl_xor_sync(~0u, highest, mask));
  part.reference = reference_for(highest);
#pragma unroll
  for (int q = 0; q < kLaneColumns; q++) part.add(fma(s[q], static_cast<Scalar>(kLog2E), -part.reference));
  for (int mask = 16; mask > 0; mask /= 2) {
    part.sum += __shfl_xor_sync(~0u, part.sum, mask);
    part.moment += __shfl_xor_sync(~0u, part.moment, mask);
    part.above += __shfl_xor_sync(~0u, part.above, mask);
  }
  if (threadIdx.x % 32 == 0) parts[blockIdx.y * block.rows + r] = part;
}

template <class Critic>
struct RankingPass {
  using Scalar = typename Critic::Scalar;
  const JointWalk<Critic>& walk;
  RankingPart<double>* totals;  // [n]
  RankingPart<Scalar>* parts;   // of a block

  RankingPass(const JointWalk<Critic>& walk, Arena& arena)
      : walk(walk),
        totals(arena.take<RankingPart<double>>(walk.p.n())),
        parts(arena.take<RankingPart<Scalar>>(walk.row_parts() * walk.blocks.rows)) {}

  void run(Queue& queue, const DotRanking& out) const {
    const DeviceJointProblem& p = walk.p;
    const Negatives<Scalar> negatives{p.exclusions, nullptr, 0, false};
    walk.critic.positives(queue, out.positive);
    queue.each(p.n(), fill<RankingPart<double>>, totals, p.n(), RankingPart<double>{});
    walk.each_block([&](const PairBlock& block) {
      walk.critic.scores(queue, block);
      queue.launch(row_grid(block), kRowThreads, row_rankings<Scalar>, block, negatives,
                   static_cast<const double*>(out.positive), parts);
      queue.each(block.rows, add_rankings<Scalar>, static_cast<const RankingPart<Scalar>*>(parts),
                 static_cast<int>(row_grid(block).y), block.rows, totals + block.first_row);
    });
    queue.each(p.n(), join_rankings<double>, static_cast<const void*>(totals), 1, p.n(), out);
  }
};

}  // namespace mi::cuda
