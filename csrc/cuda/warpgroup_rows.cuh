// Scores by wgmma: the owner's rows in registers or shared memory, the streamed ones where their copies lie.
#pragma once
#include <type_traits>

#include "scores.cuh"
#include "warpgroup.cuh"

namespace mi::cuda {

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
    const uint64_t columns = described(ring.streamed_chunk(0), 0);
    begin_products();
#pragma unroll
    for (int c = 0; c < T::kChunks; c++)
#pragma unroll
      for (int k = 0; k < kSteps; k++)
#pragma unroll
        for (int r = 0; r < T::kRowBlocks; r++) {
          const uint64_t at = columns + (c * Ring<T>::kStreamedChunk + k * kStepBytes) / 16;
          if (c == 0 && k == 0)
            multiply_rows<false, typename T::Element>(s[r], rows[c][k][r].r, at);
          else
            multiply_rows<true, typename T::Element>(s[r], rows[c][k][r].r, at);
        }
    await_products(s);
  }
};

// The same where registers are too few.
template <class T>
struct SharedRows {
  static_assert(T::kRowBlocks == 1 && T::kColumnBlocks == 8);

  __device__ SharedRows(const Ring<T>&, const Place<T>&) {}

  __device__ __forceinline__ void multiply(Tile<T>& s, const Ring<T>& ring) const {
    const uint64_t rows = described(ring.owner_chunk(0), 0), columns = described(ring.streamed_chunk(0), 0);
    begin_products();
#pragma unroll
    for (int c = 0; c < T::kChunks; c++)
#pragma unroll
      for (int k = 0; k < kRowBytes; k += kStepBytes) {
        const uint64_t row = rows + (c * Ring<T>::kOwnerChunk + k) / 16;
        const uint64_t column = columns + (c * Ring<T>::kStreamedChunk + k) / 16;
        if (c == 0 && k == 0)
          multiply_rows<false, typename T::Element>(s[0], row, column);
        else
          multiply_rows<true, typename T::Element>(s[0], row, column);
      }
    await_products(s);
  }
};

template <class T>
using WarpgroupRows = std::conditional_t<T::kHoldsRows, HeldRows<T>, SharedRows<T>>;

// As walk_tiles.
template <class T, class Visit>
__device__ __forceinline__ void walk_warpgroup_tiles(Ring<T>& ring, const Place<T>& place, Visit&& visit) {
  const int last_tile = ring.last_tile();
  int tile = ring.tile;
  ring.start();
  const WarpgroupRows<T> rows(ring, place);
  for (; tile < last_tile; tile++) {
    ring.advance();
    Tile<T> s;
    rows.multiply(s, ring);
    visit(s, tile);
  }
}

}  // namespace mi::cuda
