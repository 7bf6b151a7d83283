// pairwise_forward by wgmma: row log-sum-exps of scores over 16-bit features.
#pragma once
#include "launch.cuh"
#include "pairwise_forward.cuh"
#include "warpgroup_rows.cuh"

namespace mi::cuda {

template <class T>
__global__ void __launch_bounds__(kThreads) warpgroup_forward(const __grid_constant__ ForwardParams p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  if (!has_undecided<T>(p)) return;
  Ring<T> ring(p.walk, shared);
  const Place<T> place;
  const Scores<T> scores(p.walk, ring, place, false);
  start_looks(ring, scores);
  RowLogSumExp<T> sums;
  const int last_tile = ring.last_tile();
  int tile = ring.tile;
  ring.start();
  const HeldRows<T> rows(ring, place);
  for (; tile < last_tile; tile++) {
    ring.advance();
    Tile<T> s;
    rows.multiply(s, ring);
    sums.push(s, finish_due(ring, scores, s, tile, p.positive).factor);
  }
  write_sums(sums, p, ring, place);
}

template <class Element>
ForwardKernel warpgroup_log_sum_exp() {
  using Walk = WarpgroupTiling<Element>;
  return {shape_of<Walk>, [](const ForwardParams& p, int splits, cudaStream_t stream) {
            return with_chunks<Walk, Chunked<Walk, 4>>(KnownChunks<1, 2, 3>{}, p.walk.row_bytes, [&]<class T>(T) {
              return launch<T>(warpgroup_forward<T>, p, splits, 1, stream);
            });
          }};
}

}  // namespace mi::cuda
