// Over 16-bit features by wgmma: row log-sum-exps, those of rows and columns, and softplus sums.
#pragma once
#include "launch.cuh"
#include "pairwise_two_sided.cuh"
#include "warpgroup_rows.cuh"

namespace mi::cuda {

// Softplus sums have no log-weights here.
template <class T, bool kSoftplus>
__global__ void __launch_bounds__(kThreads) warpgroup_forward(const __grid_constant__ ForwardParams p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  if (!has_undecided<T>(p)) return;
  Ring<T> ring(p.walk, shared);
  const Place<T> place;
  const Scores<T> scores(p.walk, ring, place, kSoftplus);
  start_looks(ring, scores);
  RowSumsOf<T, kSoftplus> sums;
  walk_warpgroup_tiles(ring, place,
                       [&](Tile<T>& s, int tile) { sums.push(s, finish_due(ring, scores, s, tile, p.positive)); });
  write_sums(sums, p, ring, place);
}

template <class T>
__global__ void __launch_bounds__(kThreads) warpgroup_two_sided(const __grid_constant__ TwoSidedParams p) {
  two_sided<T>(p, [](Ring<T>& ring, const Place<T>& place, auto&& visit) { walk_warpgroup_tiles(ring, place, visit); });
}

template <class Element, bool kSoftplus>
ForwardKernel warpgroup_rows() {
  using Walk = WarpgroupTiling<Element>;
  return {shape_of<Walk>, [](const ForwardParams& p, int splits, cudaStream_t stream) {
            return with_chunks<Walk, Chunked<Walk, 4>>(KnownChunks<1, 2, 3>{}, p.walk.row_bytes, [&]<class T>(T) {
              return launch<T>(warpgroup_forward<T, kSoftplus>, p, splits, 1, stream);
            });
          }};
}

template <class Element>
TwoSidedKernel warpgroup_rows_and_columns() {
  using Walk = WarpgroupTiling<Element>;
  return {shape_of<Walk>, [](const TwoSidedParams& p, int slots, int splits, cudaStream_t stream) {
            return with_chunks<Walk, Chunked<Walk, 3>>(KnownChunks<1, 2>{}, p.walk.row_bytes, [&]<class T>(T) {
              return launch_on<Passing<T>>(dim3(slots, splits), warpgroup_two_sided<Passing<T>>, p, stream);
            });
          }};
}

}  // namespace mi::cuda
