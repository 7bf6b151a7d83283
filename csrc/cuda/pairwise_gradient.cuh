// Products of weights and features, sum_j w_ij y_j, where w is computed from the scores tile by tile: attention with
// keys = values = y. 2nmd flops for the scores and 2nmd for the products; a block accumulates its rows in registers.
#pragma once
#include "weights.cuh"

namespace mi::cuda {

// products += weights times one chunk of the streamed features.
template <class T, int kChunk>
__device__ __forceinline__ void multiply_values(ProductsTile<T>& products,
                                                const WeightRows<T> (&weights)[T::kRowBlocks], uint32_t values,
                                                const StepOffsets& offsets, int first_step, bool exact) {
  using Math = typename T::Math;
  constexpr int kSteps = Math::template kValueSteps<T::kColumnBlocks>;
#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    typename Math::Rows a[T::kRowBlocks];
#pragma unroll
    for (int r = 0; r < T::kRowBlocks; r++) a[r] = weights[r].rows(step, exact);
#pragma unroll
    for (int pair = 0; pair < T::kChunkBlocks / 2; pair++) {
      const typename Math::Columns b =
          Math::load_values(values + offsets.at[pair * T::kPairSteps], first_step + step, exact);
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int r = 0; r < T::kRowBlocks; r++)
          Math::multiply(products[r][kChunk * T::kChunkBlocks + 2 * pair + half], a[r], b, half, exact);
    }
  }
}

// Adds a tile's weights to the products, over the chunks of features that this block accumulates.
template <class T, int kChunk = 0, class Fetch>
__device__ __forceinline__ void accumulate(ProductsTile<T>& products, const WeightRows<T> (&weights)[T::kRowBlocks],
                                           Ring<T>& ring, const StepOffsets& offsets, bool exact, Fetch&& fetch) {
  if constexpr (kChunk < T::kValueChunks) {
    if (!Ring<T>::kAlike && ring.first_value() + kChunk >= ring.l.chunks) return;
    if (!ring.l.held()) ring.advance(fetch);
    // a chunk of a held tile lies as many steps behind the one before as a chunk has
    constexpr int kSteps = T::Math::template kValueSteps<T::kColumnBlocks>;
    multiply_values<T, kChunk>(products, weights, ring.streamed_chunk(0), offsets, ring.l.held() ? kChunk * kSteps : 0,
                               exact);
    accumulate<T, kChunk + 1>(products, weights, ring, offsets, exact, fetch);
  }
}

template <class T>
__device__ void write_products(const ProductsTile<T>& products, const GradientParams& p, const Ring<T>& ring) {
  using Scalar = typename T::Scalar;
  const Place<T> place = Place<T>::again();
  const int64_t first_feature = static_cast<int64_t>(ring.first_value()) * T::kChunk;
  Scalar* out = static_cast<Scalar*>(p.products) + blockIdx.y * p.walk.owner.rows * p.dim;
#pragma unroll
  for (int k = 0; k < 2 * T::kRowBlocks; k++) {
    const int64_t row = ring.first_row() + place.row + place.row_of(k / 2, k % 2);
    if (row >= p.walk.owner.rows) continue;
#pragma unroll
    for (int q = 0; q < 2 * T::kValueChunks * T::kChunkBlocks; q++) {
      const int64_t feature = first_feature + place.column_of(q / 2, q % 2);
      if (feature < p.dim) out[row * p.dim + feature] = products[k / 2][q / 2][2 * (k % 2) + q % 2];
    }
  }
}

// The weights of a tile of products, as left factors.
template <class T, class WeightsOf>
__device__ __forceinline__ void weigh_tile(WeightRows<T> (&left)[T::kRowBlocks], Tile<T>& s, WeightsOf& weights,
                                           const Scores<T>& scores, Ring<T>& ring, int tile, double* positive,
                                           ProductsTile<T>& products) {
  if (WeightsOf::kTakes != Takes::kNothing && tile < ring.plain) {
    weights.take(left, s, scores.affine, products);
    return;
  }
  Affine<typename T::Scalar> affine = scores.affine;
  const uint32_t target = scores.any_target(tile);
  if (target || tile >= ring.looks().plain) {
    scores.finish(s, tile, positive);
    affine = {1, 0};
  }
  if (weights.any_plain() && (WeightsOf::kTakes == Takes::kEverything || !target)) {
    weights.take(left, s, affine, products);
  } else if constexpr (WeightsOf::kTakes != Takes::kEverything) {
    weights.apply(s, affine, tile);
    if (target) weights.set_positives(s, scores, tile);
#pragma unroll
    for (int r = 0; r < T::kRowBlocks; r++) left[r].take(s[r]);
  }
  if (weights.any_plain()) ring.plain = scores.next_look(tile + 1);
}

// Registers for two blocks on a multiprocessor: the compiler would rather spill than leave room for two alone.
template <class T, class WeightsOf>
__global__ void __launch_bounds__(kThreads, 2) pairwise_gradient(const __grid_constant__ GradientParams p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  Ring<T> ring(p.walk, shared);
  const Place<T> place;
  const Scores<T> scores(p.walk, ring, place, WeightsOf::kTakesAny);
  WeightsOf weights(p, ring, place);
  const int lane = threadIdx.x % 32;
  const StepOffsets rows(T::Math::rows_offset(lane), Ring<T>::kKnown),
      columns(T::Math::columns_offset(lane), Ring<T>::kKnown);
  // the same for all lanes, as a shuffle tells the compiler: addresses take it from a uniform register
  const uint32_t warp_row = __shfl_sync(~0u, place.row * kRowBytes, 0);
  scores.find_targets();
  if (weights.any_plain()) ring.plain = scores.next_look(ring.tile);
  ProductsTile<T> products = {};
  const int last_tile = ring.last_tile();
  int tile = ring.tile;
  const auto fetch = [&] { weights.fetch(); };
  ring.start(fetch);
  for (; tile < last_tile; tile++) {
    Tile<T> s = {};
    multiply_tile<T>(s, ring, warp_row, rows, columns, fetch);
    WeightRows<T> left[T::kRowBlocks];
    weigh_tile<T>(left, s, weights, scores, ring, tile, blockIdx.z == 0 ? p.positive : nullptr, products);
    if constexpr (T::Math::kValuesAsRows)
      accumulate<T>(products, left, ring, rows, p.walk.exact, fetch);
    else
      accumulate<T>(products, left, ring, StepOffsets(T::Math::values_offset(lane), false), p.walk.exact, fetch);
  }
  await_all_copies();
  weights.finish();
  write_products<T>(products, p, ring);
}

}  // namespace mi::cuda
