// Log-sum-exps of rows and of columns in one walk: 2nmd flops, and one exponential a score serves both.
//
// For that the scores of a warp share one reference r: 2^(s_ij - r) is a term of row i and of column j alike. What lies
// 126 and more below r is lost; whether that matters is known in the end, from the sums (`join_decided`).
#pragma once
#include "pairwise_forward.cuh"

namespace mi::cuda {

// Sums are lowered by 2^-by in two steps: 2^-by alone may be flushed to zero, and a sum is up to 2^120.
template <class Scalar>
__device__ __forceinline__ Scalar lowering_root(Scalar by) {
  return exp2_of(by * Scalar(-0.5));
}

template <class T>
struct TwoSidedSums {
  using Scalar = typename T::Scalar;
  static constexpr int kRowValues = 2 * T::kRowBlocks, kColumnValues = 2 * T::kColumnBlocks;
  static constexpr int kLanesOfColumn = 8, kColumnsEach = kColumnValues / kLanesOfColumn;
  static constexpr Scalar kHighestSum = static_cast<Scalar>(0x1p90);  // 2^30 of them are finite
  static constexpr Scalar kMostHeadroom = 64;
  Scalar reference = -kHighest<T>;
  Scalar row[kRowValues] = {};
  Scalar column[kColumnsEach];  // of the last tile

  // Scores are factor * s, factor > 0.
  __device__ __forceinline__ void push(const Tile<T>& s, Scalar factor) {
    Scalar sum[kRowValues];
    exponentials(s, factor, sum);
    bool behind = false;
#pragma unroll
    for (int q = 0; q < kColumnsEach; q++) behind |= !(column[q] <= kHighestSum);
    if (__any_sync(~0u, behind)) {
      raise(s, factor);
      exponentials(s, factor, sum);
    }
#pragma unroll
    for (int k = 0; k < kRowValues; k++) row[k] += sum[k];
  }

  __device__ __forceinline__ void exponentials(const Tile<T>& s, Scalar factor, Scalar (&sum)[kRowValues]) {
    Scalar down[kColumnValues];
#pragma unroll
    for (int q = 0; q < kColumnValues; q++) {
#pragma unroll
      for (int k = 0; k < kRowValues; k++) {
        const Scalar e = exp2_of(fma(s[k / 2][q / 2][2 * (k % 2) + q % 2], factor, -reference));
        sum[k] = q == 0 ? e : sum[k] + e;
        down[q] = k == 0 ? e : down[q] + e;
      }
    }
    join_lanes(down);
  }

  // Lanes 4g + t, g < 8, sum what they have of the same columns; the g-th keeps the g-th eighth.
  __device__ __forceinline__ void join_lanes(Scalar (&down)[kColumnValues]) {
    join_halves<kColumnValues / 2>(down, 16);
    join_halves<kColumnValues / 4>(down, 8);
    join_halves<kColumnValues / 8>(down, 4);
#pragma unroll
    for (int q = 0; q < kColumnsEach; q++) column[q] = down[q];
  }
  template <int kHalf>
  static __device__ __forceinline__ void join_halves(Scalar (&down)[kColumnValues], int bit) {
    const bool upper = static_cast<int>(threadIdx.x * (0x80000000u / bit)) < 0;  // fewer instructions than & bit
#pragma unroll
    for (int q = 0; q < kHalf; q++) {
      const Scalar low = down[q], high = down[q + kHalf];
      down[q] = (upper ? high : low) + __shfl_xor_sync(~0u, upper ? low : high, bit);
    }
  }

  // Below the highest score, so that others may lie far above and far below; by no more than half of it, so that
  // rounding s - r, where s is high, costs no more than rounding s did.
  __device__ __forceinline__ void raise(const Tile<T>& s, Scalar factor) {
    Scalar highest = s[0][0][0];
#pragma unroll
    for (int k = 0; k < kRowValues; k++)
#pragma unroll
      for (int q = 0; q < kColumnValues; q++) highest = fmax(highest, s[k / 2][q / 2][2 * (k % 2) + q % 2]);
    highest *= factor;
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) highest = fmax(highest, __shfl_xor_sync(~0u, highest, bit));
    const Scalar headroom = fmin(fabs(highest) / 2, kMostHeadroom);
    const Scalar raised = fmin(fmax(reference, highest - headroom), kHighest<T>);
    const Scalar root = lowering_root(raised - reference);
#pragma unroll
    for (int k = 0; k < kRowValues; k++) row[k] = row[k] * root * root;
    reference = raised;
  }
};

// Of neighbouring columns, the sums over all blocks of rows that a slot has seen.
template <class T>
struct alignas(TwoSidedSums<T>::kColumnsEach * sizeof(RowPart<typename T::Scalar>)) ColumnParts {
  using Scalar = typename T::Scalar;
  RowPart<Scalar> of[TwoSidedSums<T>::kColumnsEach];

  static __device__ __forceinline__ ColumnParts none() {
    ColumnParts parts;
#pragma unroll
    for (auto& part : parts.of) part = {-kHighest<T>, 0};
    return parts;
  }
  // All of a thread have one reference.
  __device__ __forceinline__ void add(const TwoSidedSums<T>& sums) {
    const Scalar rise = sums.reference - of[0].reference, reference = fmax(of[0].reference, sums.reference);
    const Scalar root = lowering_root(fabs(rise));
#pragma unroll
    for (int q = 0; q < TwoSidedSums<T>::kColumnsEach; q++) {
      const Scalar sum = rise > 0 ? of[q].sum * root * root + sums.column[q] : of[q].sum + sums.column[q] * root * root;
      of[q] = {reference, sum};
    }
  }
};

// blockIdx.x is a slot: it takes every gridDim.x-th block of rows. walk(ring, place, visit), as walk_tiles.
template <class T, class WalkOver>
__device__ __forceinline__ void two_sided(const TwoSidedParams& p, WalkOver&& walk) {
  using Scalar = typename T::Scalar;
  extern __shared__ __align__(1024) unsigned char shared[];
  const Place<T> place;
  const int blocks = static_cast<int>(ceil_div(p.walk.owner.rows, T::kRows));
  const int first = place.g * TwoSidedSums<T>::kColumnsEach;  // of this thread's columns after a tile
  auto* const column_parts = static_cast<RowPart<Scalar>*>(p.column_parts) +
                             (blockIdx.x * T::kWarpsDown + place.row / T::kWarpRows) * p.column_pitch + place.column +
                             place.column_of(first / 2, first % 2);
  for (int passed = 0; blockIdx.x + passed < blocks; passed += gridDim.x) {
    Ring<T> ring(p.walk, shared, passed);
    const Scores<T> scores(p.walk, ring, place, false);
    TwoSidedSums<T> sums;
    __syncthreads();  // the block before is no longer needed by anyone
    start_looks(ring, scores);
    constexpr int kNextTile = T::kColumns / TwoSidedSums<T>::kColumnsEach;
    auto* at = reinterpret_cast<ColumnParts<T>*>(column_parts + ring.first_column(ring.tile));
    if (passed == 0)
      for (int k = 0; k < ring.last_tile() - ring.tile; k++) at[k * kNextTile] = ColumnParts<T>::none();
    walk(ring, place, [&](Tile<T>& s, int tile) {
      ColumnParts<T> parts = *at;
      const Scalar factor = finish_due(ring, scores, s, tile, p.positive).factor;
      sums.push(s, factor);
      parts.add(sums);
      *at = parts;
      at += kNextTile;
    });
    write_rows<RowPart<Scalar>>(ring, place, p.row_parts, [&](int k) {
      Scalar sum = sums.row[k];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      return RowPart<Scalar>{sums.reference, sum};
    });
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) pairwise_two_sided(const __grid_constant__ TwoSidedParams p) {
  two_sided<T>(p, [](Ring<T>& ring, const Place<T>& place, auto&& visit) { walk_tiles(ring, place, visit); });
}

}  // namespace mi::cuda
