// pairwise_forward by wgmma: row log-sum-exps of scores over 16-bit features.
#pragma once
#include "launch.cuh"
#include "pairwise_forward.cuh"
#include "warpgroup.cuh"

namespace mi::cuda {

// All chunks of a warp's rows, held in registers, and their products with streamed tiles.
template <class T>
struct HeldRows {
  static constexpr int kSteps = kRowBytes / kStepBytes;  // of a chunk
  typename T::Math::Rows rows[T::kChunks][kSteps][T::kRowBlocks];

  // Once the first copies have come.
  __device__ HeldRows(const Ring<T>& ring, const Place<T>& place) {
    const uint32_t at = place.row * kRowBytes + T::Math::rows_offset(threadIdx.x % 32);
    await_copies<0>();
    __syncthreads();
#pragma unroll
    for (int c = 0; c < T::kChunks; c++)
#pragma unroll
      for (int k = 0; k < kSteps; k++)
#pragma unroll
        for (int r = 0; r < T::kRowBlocks; r++)
          rows[c][k][r] =
              T::Math::load_rows(((ring.owner_chunk(c) + at) ^ (k * kStepBytes)) + r * 16 * kRowBytes, true);
  }

  // Scores of the tile that is in use.
  __device__ __forceinline__ void multiply(Tile<T>& s, const Ring<T>& ring) const {
    const uint64_t columns = describe_rows(ring.streamed_chunk(0));
    begin_products();
#pragma unroll
    for (int c = 0; c < T::kChunks; c++)
#pragma unroll
      for (int k = 0; k < kSteps; k++)
#pragma unroll
        for (int r = 0; r < T::kRowBlocks; r++) {
          const uint64_t at = columns + (c * Ring<T>::kStreamedChunk + k * kStepBytes) / 16;
          if (c == 0 && k == 0)
            multiply_rows<false>(s[r], rows[c][k][r].r, at, typename T::Element{});
          else
            multiply_rows<true>(s[r], rows[c][k][r].r, at, typename T::Element{});
        }
    await_products(s);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) warpgroup_forward(const __grid_constant__ ForwardParams p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  if (!has_undecided<T>(p)) return;
  Ring<T> ring(p.walk, shared);
  const Place<T> place;
  const Scores<T> scores(p.walk, ring, place, false);
  RowLogSumExp<T> sums;
  const int last_tile = ring.last_tile();
  int tile = ring.tile;
  ring.start();
  const HeldRows<T> rows(ring, place);
  for (; tile < last_tile; tile++) {
    ring.advance();
    Tile<T> s;
    rows.multiply(s, ring);
    sums.push(s, scores.finish_special(s, tile, p.positive).factor);
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
