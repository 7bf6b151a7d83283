// Scores by wgmma: the owner's rows in registers, the streamed ones where their copies lie.
#pragma once
#include "scores.cuh"
#include "warpgroup.cuh"

namespace mi::cuda {

// 64 columns of a tile's row of blocks.
template <int kBlocks>
__device__ __forceinline__ WarpgroupBlocks& blocks_at(float (&row)[kBlocks][4], int first) {
  return *reinterpret_cast<WarpgroupBlocks*>(&row[first]);
}

// All chunks of a warp's rows, and their products with streamed tiles.
template <class T>
struct HeldRows {
  static constexpr int kSteps = kRowBytes / kStepBytes;  // of a chunk
  typename T::Math::Rows rows[T::kChunks][kSteps][T::kRowBlocks];

  // Once the first copies have come.
  __device__ HeldRows(const Ring<T>& ring, const Place<T>& place) {
    const uint32_t at = place.row * kRowBytes + T::Math::rows_offset(threadIdx.x % 32);
    await_all_copies();
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
    const uint64_t columns = described(ring.streamed_chunk(0));
    begin_products();
#pragma unroll
    for (int c = 0; c < T::kChunks; c++)
#pragma unroll
      for (int k = 0; k < kSteps; k++)
#pragma unroll
        for (int r = 0; r < T::kRowBlocks; r++)
#pragma unroll
          for (int block = 0; block < T::kColumnBlocks; block += 8) {
            const int at = c * Ring<T>::kStreamedChunk + block * 8 * kRowBytes + k * kStepBytes;
            if (c == 0 && k == 0)
              multiply_rows<false>(blocks_at(s[r], block), rows[c][k][r].r, columns + at / 16, typename T::Element{});
            else
              multiply_rows<true>(blocks_at(s[r], block), rows[c][k][r].r, columns + at / 16, typename T::Element{});
          }
    await_products(s);
  }
};

}  // namespace mi::cuda
