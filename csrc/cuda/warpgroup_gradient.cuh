// pairwise_gradient by wgmma: the weights go from registers into the second product, the features of the streamed tile
// serve both.
#pragma once
#include "launch.cuh"
#include "pairwise_gradient.cuh"
#include "warpgroup_rows.cuh"

namespace mi::cuda {

// The features that there are of those that a tile of products has room for.
template <class T, int kBlocks>
__device__ __forceinline__ WarpgroupBlocks<8 * T::kChunks>& values_of(float (&row)[kBlocks][4]) {
  return reinterpret_cast<WarpgroupBlocks<8 * T::kChunks>&>(row);
}

// products += weights times the features of the tile in use.
template <class T>
__device__ __forceinline__ void add_weighted(ProductsTile<T>& products, WeightRows<T> (&weights)[T::kRowBlocks],
                                             const Ring<T>& ring) {
#pragma unroll
  for (int k = 0; k < 2 * T::kRowBlocks * T::kColumnBlocks; k++)
    asm volatile("" : "+r"(weights[k / 2 / T::kColumnBlocks].r[k / 2 % T::kColumnBlocks][k % 2])::"memory");
  settle(products);
  const uint64_t values = described(ring.streamed_chunk(0), Ring<T>::kStreamedChunk);
  begin_products();
#pragma unroll
  for (int step = 0; step < T::kColumnBlocks / 2; step++)
#pragma unroll
    for (int r = 0; r < T::kRowBlocks; r++)
      add_values<typename T::Element>(values_of<T>(products[r]), weights[r].rows(step, true).r,
                                      values + step * 16 * kRowBytes / 16);
  await_products(products);
}

template <class T, class WeightsOf>
__global__ void __launch_bounds__(kThreads) warpgroup_gradient(const __grid_constant__ GradientParams p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  Ring<T> ring(p.walk, shared);
  const Place<T> place;
  const Scores<T> scores(p.walk, ring, place, WeightsOf::kTakesAny);
  WeightsOf weights(p, ring, place);
  scores.find_targets();
  if (weights.any_plain()) ring.plain = scores.next_look(ring.tile);
  ProductsTile<T> products = {};
  const int last_tile = ring.last_tile();
  int tile = ring.tile;
  const auto fetch = [&] { weights.fetch(); };
  ring.start(fetch);
  const HeldRows<T> rows(ring, place);
  for (; tile < last_tile; tile++) {
    ring.advance(fetch);
    Tile<T> s;
    rows.multiply(s, ring);
    WeightRows<T> left[T::kRowBlocks];
    weigh_tile<T>(left, s, weights, scores, ring, tile, p.positive, products);
    add_weighted<T>(products, left, ring);
  }
  await_all_copies();
  weights.finish();
  write_products<T>(products, p, ring);
}

template <class Element>
GradientKernel warpgroup_gradients() {
  using Wide = WarpgroupGradientTiling<Element, 16>;
  using Narrow = WarpgroupGradientTiling<Element, 8>;  // where both sides have terms, registers hold no more
  return {shape_of<Wide>, [](Weights weights, const GradientParams& params, int splits, cudaStream_t stream) {
            GradientParams p = params;
            if (p.owner_term && p.streamed_term) {
              p.walk.tiles_per_split *= Wide::kColumns / Narrow::kColumns;
              return with_chunks<Narrow, Chunked<Narrow, 2>>(KnownChunks<1>{}, p.walk.row_bytes, [&]<class T>(T) {
                return launch<T>(warpgroup_gradient<T, FixedWeights<T, true, true>>, p, splits, 1, stream);
              });
            }
            return with_chunks<Wide, Chunked<Wide, 2>>(KnownChunks<1>{}, p.walk.row_bytes, [&]<class T>(T) {
              const auto kernel = weights == Weights::kOnline ? warpgroup_gradient<T, OnlineWeights<T>>
                                  : p.owner_term              ? warpgroup_gradient<T, FixedWeights<T, true, false>>
                                                              : warpgroup_gradient<T, FixedWeights<T, false, true>>;
              return launch<T>(kernel, p, splits, 1, stream);
            });
          }};
}

}  // namespace mi::cuda
