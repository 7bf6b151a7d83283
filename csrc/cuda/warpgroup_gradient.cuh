// pairwise_gradient by wgmma: the weights go from registers into the second product, the features of the streamed tile
// serve both.
#pragma once
#include "launch.cuh"
#include "pairwise_gradient.cuh"
#include "warpgroup_rows.cuh"

namespace mi::cuda {

// row += weights times the features from chunk kFirst on, two chunks at a time; as many as there are.
template <class T, int kFirst = 0, int kBlocks>
__device__ __forceinline__ void add_features(float (&row)[kBlocks][4], const uint32_t (&weights)[4], uint64_t values) {
  if constexpr (kFirst < T::kChunks) {
    constexpr int kChunks = T::kChunks - kFirst > 1 ? 2 : 1;
    add_values<typename T::Element>(reinterpret_cast<WarpgroupBlocks<8 * kChunks>&>(row[8 * kFirst]), weights,
                                    values + kFirst * Ring<T>::kStreamedChunk / 16);
    add_features<T, kFirst + kChunks>(row, weights, values);
  }
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
  __syncwarp();  // the lanes' ways through the weights may have parted
  begin_products();
#pragma unroll
  for (int step = 0; step < T::kColumnBlocks / 2; step++)
#pragma unroll
    for (int r = 0; r < T::kRowBlocks; r++)
      add_features<T>(products[r], weights[r].rows(step, true).r, values + step * 16 * kRowBytes / 16);
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
  const WarpgroupRows<T> rows(ring, place);
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

template <class T>
cudaError_t launch_warpgroup_gradient(Weights weights, const GradientParams& p, int splits, cudaStream_t stream) {
  const auto kernel = weights == Weights::kOnline     ? warpgroup_gradient<T, OnlineWeights<T>>
                      : weights == Weights::kSoftplus ? warpgroup_gradient<T, SigmoidWeights<T>>
                      : p.owner_term                  ? warpgroup_gradient<T, FixedWeights<T, true, false>>
                                                      : warpgroup_gradient<T, FixedWeights<T, false, true>>;
  return launch<T>(kernel, p, splits, 1, stream);
}
template <class T>
cudaError_t launch_warpgroup_gradient_of_both(const GradientParams& p, int splits, cudaStream_t stream) {
  return launch<T>(warpgroup_gradient<T, FixedWeights<T, true, true>>, p, splits, 1, stream);
}

// A split is so many tiles of Wide, whatever tiles a kernel has.
template <class Element>
GradientKernel warpgroup_gradients() {
  using Wide = WarpgroupGradientTiling<Element, 16>;
  using Narrow = WarpgroupGradientTiling<Element, 8>;  // where both sides have terms, registers hold no more
  using Deep = DeepWarpgroupGradientTiling<Element>;
  static_assert(Narrow::kColumns == Deep::kColumns);
  return {shape_of<Wide>, [](Weights weights, const GradientParams& params, int splits, cudaStream_t stream) {
            GradientParams p = params;
            const bool both = p.owner_term && p.streamed_term, deep = p.walk.row_bytes > 2 * kRowBytes;
            if (both || deep) p.walk.tiles_per_split *= Wide::kColumns / Narrow::kColumns;
            if (deep)
              return with_chunks<Deep, Chunked<Deep, 4>>(KnownChunks<3>{}, p.walk.row_bytes, [&]<class T>(T) {
                return both ? launch_warpgroup_gradient_of_both<T>(p, splits, stream)
                            : launch_warpgroup_gradient<T>(weights, p, splits, stream);
              });
            if (both)
              return with_chunks<Narrow, Chunked<Narrow, 2>>(KnownChunks<1>{}, p.walk.row_bytes, [&]<class T>(T) {
                return launch_warpgroup_gradient_of_both<T>(p, splits, stream);
              });
            return with_chunks<Wide, Chunked<Wide, 2>>(KnownChunks<1>{}, p.walk.row_bytes, [&]<class T>(T) {
              return launch_warpgroup_gradient<T>(weights, p, splits, stream);
            });
          }};
}

}  // namespace mi::cuda
