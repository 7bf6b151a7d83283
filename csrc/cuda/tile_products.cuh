// A warp's tile of products of owner's and streamed rows, chunk by chunk of K.
#pragma once
#include "tile.cuh"

namespace mi::cuda {

// Where a thread begins in a chunk at each step of K. Kept in registers, if so wanted: the swizzle leaves no common
// distance between them.
struct StepOffsets {
  uint32_t at[kRowBytes / kStepBytes];

  __device__ __forceinline__ explicit StepOffsets(uint32_t first, bool kept = true) {
#pragma unroll
    for (int k = 0; k < kRowBytes / kStepBytes; k++)
      at[k] = kept ? opaque(first ^ (k * kStepBytes)) : first ^ (k * kStepBytes);
  }
};

// scores += owner's rows times streamed rows, over one chunk. rows_at(k), columns_at(k): where this thread begins at
// step k.
template <class T, class RowsAt, class ColumnsAt>
__device__ __forceinline__ void multiply_steps(typename T::Scalar (&scores)[T::kRowBlocks][T::kColumnBlocks][4],
                                               RowsAt&& rows_at, ColumnsAt&& columns_at, bool exact) {
  using Math = typename T::Math;
#pragma unroll
  for (int k = 0; k < kRowBytes / kStepBytes; k++) {
    typename Math::Rows a[T::kRowBlocks];
#pragma unroll
    for (int r = 0; r < T::kRowBlocks; r++) a[r] = Math::load_rows(rows_at(k) + r * 16 * kRowBytes, exact);
#pragma unroll
    for (int c = 0; c < T::kColumnBlocks; c += 2) {
      const typename Math::Columns b = Math::load_columns(columns_at(k) + c * 8 * kRowBytes, exact);
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int r = 0; r < T::kRowBlocks; r++) Math::multiply(scores[r][c + half], a[r], b, half, exact);
    }
  }
}

template <class T>
__device__ __forceinline__ void multiply_chunk(typename T::Scalar (&scores)[T::kRowBlocks][T::kColumnBlocks][4],
                                               uint32_t rows, uint32_t columns, bool exact) {
  multiply_steps<T>(
      scores, [&](int k) { return rows ^ (k * kStepBytes); }, [&](int k) { return columns ^ (k * kStepBytes); }, exact);
}

// All chunks of the next tile. rows, columns: where this thread begins in a chunk.
template <class T, class Fetch>
__device__ __forceinline__ void multiply_tile(typename T::Scalar (&scores)[T::kRowBlocks][T::kColumnBlocks][4],
                                              Ring<T>& ring, uint32_t warp_row, const StepOffsets& rows,
                                              const StepOffsets& columns, Fetch&& fetch) {
  if constexpr (T::kChunks > 0) {
    static_assert(T::kChunks <= T::kResident);
#pragma unroll
    for (int c = 0; c < T::kChunks; c++) {
      if (!ring.l.held() || c == 0) ring.advance(fetch);
      const uint32_t owner = ring.owner_chunk(0) + warp_row + c * Ring<T>::kOwnerChunk,
                     streamed = ring.streamed_chunk(0) + (ring.l.held() ? c * Ring<T>::kStreamedChunk : 0);
      multiply_steps<T>(
          scores, [&](int k) { return rows.at[k] + owner; }, [&](int k) { return columns.at[k] + streamed; },
          ring.walk.exact);
    }
  } else {
    for (int c = 0; c < ring.l.chunks; c++) {
      if (!ring.l.held() || c == 0) ring.advance(fetch);
      multiply_chunk<T>(scores, ring.owner_chunk(c) + warp_row + rows.at[0], ring.streamed_chunk(c) + columns.at[0],
                        ring.walk.exact);
    }
  }
}

}  // namespace mi::cuda
