// What happens to a warp's tile of products before it is exponentiated: scale, bias, clip, log-weights, exclusions, and
// the positives taken out.
#pragma once
#include "../core/log_sum_exp.h"
#include "tile_products.cuh"

namespace mi::cuda {

// Where a warp's tile lies, and this thread in it.
template <class T>
struct Place {
  int row, column;  // first of the warp within the block's tile
  int g, t;

  __device__ explicit Place(int thread = threadIdx.x) {
    const int warp = thread / 32, lane = thread % 32;
    row = warp / T::kWarpsAcross * T::kWarpRows;
    column = warp % T::kWarpsAcross * T::kWarpColumns;
    g = lane / 4, t = lane % 4;
  }
  // The same, and what follows from it is computed where it is used: what only few tiles need must not take the
  // registers of all.
  static __device__ __forceinline__ Place again() { return Place(static_cast<int>(opaque(threadIdx.x))); }
  // Of this thread's row (r, h) and column (c, e), within the warp's tile.
  __device__ __forceinline__ int row_of(int r, int h) const { return 16 * r + 8 * h + g; }
  __device__ __forceinline__ int column_of(int c, int e) const { return 8 * c + 2 * t + e; }
};

template <class T>
using Tile = typename T::Scalar[T::kRowBlocks][T::kColumnBlocks][4];
// From products to scores, log2 units: factor * product + offset.
template <class Scalar>
struct Affine {
  Scalar factor, offset;
};

template <class T>
struct Scores {
  using Scalar = typename T::Scalar;
  static constexpr Scalar kInf = static_cast<Scalar>(kInfinity);
  const Walk& walk;
  const Ring<T>& ring;
  const Place<T>& place;
  Affine<Scalar> affine;
  int plain_tiles;  // these first ones need no more than `affine` where they are without a target

  static __device__ __forceinline__ Scalar offset_of(const Walk& walk) {
    return static_cast<Scalar>(walk.bias ? *walk.bias * kLog2E : 0);
  }
  // Of the owner's rows; where that matters, which is where columns are summed.
  __device__ __forceinline__ int64_t rows_left() const {
    return T::kPasses ? walk.owner.rows - ring.first_row() : T::kRows;
  }
  // takes_any: the reduction applies any factor and offset by itself, else a positive factor alone.
  __device__ Scores(const Walk& walk, const Ring<T>& ring, const Place<T>& place, bool takes_any)
      : walk(walk), ring(ring), place(place) {
    affine.factor = static_cast<Scalar>(*walk.scale * kLog2E);
    affine.offset = offset_of(walk);
    const bool plain = (takes_any || (affine.factor > 0 && !walk.bias)) && !(walk.clip > 0) && !walk.owner.label &&
                       !walk.owner.log_weight && !walk.streamed.log_weight && rows_left() >= T::kRows;
    plain_tiles = plain ? static_cast<int>(walk.streamed.rows / T::kColumns) : 0;
  }

  __device__ void find_targets() const {
    Looks& looks = ring.looks();
    int first = ring.end, last = -1;
    auto note = [&](int tile) { first = min(first, tile), last = max(last, tile); };
    if (walk.owner.target)
      for (int64_t k = ring.first_row() + threadIdx.x; k < min(walk.owner.rows, ring.first_row() + T::kRows);
           k += kThreads)
        if (const int64_t target = walk.owner.target[k]; target >= 0 && target < walk.streamed.rows)
          note(static_cast<int>(target / T::kColumns));
    if (walk.streamed.target)
      for (int64_t k = ring.first_column(ring.tile) + threadIdx.x;
           k < min(walk.streamed.rows, ring.first_column(ring.end)); k += kThreads)
        if (static_cast<uint64_t>(walk.streamed.target[k] - ring.first_row()) < T::kRows)
          note(static_cast<int>(k / T::kColumns));
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2)
      first = min(first, __shfl_xor_sync(~0u, first, mask)), last = max(last, __shfl_xor_sync(~0u, last, mask));
    looks.first[threadIdx.x / 32] = first, looks.last[threadIdx.x / 32] = last;
    looks.plain = plain_tiles;
    __syncthreads();
  }
  // From `tile` on, tiles before this one have no target and no edge, and need no more than `affine`.
  __device__ int next_look(int tile) const {
    const Looks& looks = ring.looks();
    int first = min(min(looks.plain, ring.whole_tiles), ring.end), last = -1;
    for (int k = 0; k < kWarps; k++) last = max(last, looks.last[k]);
    for (int k = 0; k < kWarps && tile <= last; k++) first = min(first, looks.first[k]);
    return first;
  }

  // Which lanes know of a target of this warp's rows or columns in its tile.
  __device__ __forceinline__ uint32_t any_target(int tile) const {
    if (!walk.owner.target && !walk.streamed.target) return 0;
    const Place<T> place = Place<T>::again();
    bool hit = false;
    const int64_t column = ring.first_column(tile) + place.column, row = ring.first_row() + place.row;
    if (walk.owner.target)
      for (int k = threadIdx.x % 32; k < T::kWarpRows; k += 32)
        hit |= static_cast<uint64_t>(ring.owner().target[place.row + k] - column) < T::kWarpColumns;
    if (walk.streamed.target)
      for (int k = threadIdx.x % 32; k < T::kWarpColumns; k += 32)
        hit |= static_cast<uint64_t>(ring.streamed(tile).target[place.column + k] - row) < T::kWarpRows;
    return __ballot_sync(~0u, hit);
  }
  // Whether a tile needs `finish`, for another reason than a target.
  __device__ __forceinline__ bool special(int tile) const { return tile >= plain_tiles; }

  // What makes scores of a tile of products: `affine`, or nothing more where they needed `finish`.
  __device__ __forceinline__ Affine<Scalar> finish_special(Tile<T>& s, int tile, double* positive) const {
    if (!special(tile) && !any_target(tile)) return affine;
    finish(s, tile, positive);
    return {1, 0};
  }

  // The target relative to the warp's tile, out of reach where there is none.
  __device__ __forceinline__ int owner_target(int tile, int r, int h) const { return owner_target(tile, r, h, place); }
  __device__ __forceinline__ int streamed_target(int tile, int c, int e) const {
    return streamed_target(tile, c, e, place);
  }
  __device__ __forceinline__ int owner_target(int tile, int r, int h, const Place<T>& place) const {
    if (!walk.owner.target) return -1;
    const int64_t target = ring.owner().target[place.row + place.row_of(r, h)];
    const int64_t k = target - (ring.first_column(tile) + place.column);
    return static_cast<uint64_t>(k) < T::kWarpColumns && target < walk.streamed.rows ? static_cast<int>(k) : -1;
  }
  __device__ __forceinline__ int streamed_target(int tile, int c, int e, const Place<T>& place) const {
    if (!walk.streamed.target) return -1;
    const int64_t k = ring.streamed(tile).target[place.column + place.column_of(c, e)] - (ring.first_row() + place.row);
    return static_cast<uint64_t>(k) < T::kWarpRows ? static_cast<int>(k) : -1;
  }

  // Products become scores, log2 units; -inf where the pair is no negative.
  __device__ void finish(Tile<T>& s, int tile, double* positive) const {
    const auto& streamed = ring.streamed(tile);
    const Place<T> place = Place<T>::again();
    const Scalar clip = static_cast<Scalar>(walk.clip * kLog2E), offset = offset_of(walk);
    const int left =
        static_cast<int>(min(walk.streamed.rows - ring.first_column(tile), int64_t{T::kColumns})) - place.column;
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      const int r = k / 2, h = k % 2, row = place.row_of(r, h), at_row = place.row + row;
      const int target = owner_target(tile, r, h, place);
      const int64_t label = walk.owner.label ? ring.owner().label[at_row] : 0;
      const Scalar row_weight = walk.owner.log_weight ? ring.owner().log_weight[at_row] : Scalar(0);
      const bool is_row = at_row < rows_left();
      Scalar found = 0;
#pragma unroll
      for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
        const int column = place.column_of(q / 2, q % 2), at = place.column + column;
        Scalar& x = s[r][q / 2][2 * h + q % 2];
        const bool is_target = target == column;
        found = is_target ? x : found;
        const Scalar weight = walk.streamed.log_weight ? streamed.log_weight[at] : row_weight;
        const bool gone = column >= left || !is_row || is_target || weight == -kInf ||
                          (walk.streamed.target && streamed_target(tile, q / 2, q % 2, place) == row) ||
                          (walk.owner.label && label == streamed.label[at]);
        x = x * affine.factor + offset;
        if (clip > 0) x = x > clip ? clip : x < -clip ? -clip : x;
        x = gone || x == -kInf ? -kInf : x + weight;  // no -inf + inf
        if (q % 2 == 1) read_again();
      }
      if (positive && target >= 0 && (target & 6) == 2 * place.t && ring.first_row() + at_row < walk.owner.rows)
        positive[ring.first_row() + at_row] = static_cast<double>(found) * *walk.scale + (walk.bias ? *walk.bias : 0);
    }
  }
};

// Where the number of chunks is known tiles are looked at only where a look is due; elsewhere registers are too few.
template <class T>
__device__ __forceinline__ void start_looks(Ring<T>& ring, const Scores<T>& scores) {
  if constexpr (Ring<T>::kKnown) {
    scores.find_targets();
    ring.plain = scores.next_look(ring.tile);
  }
}
// `finish_special` where a look is due.
template <class T>
__device__ __forceinline__ Affine<typename T::Scalar> finish_due(Ring<T>& ring, const Scores<T>& scores, Tile<T>& s,
                                                                 int tile, double* positive) {
  if (Ring<T>::kKnown && tile < ring.plain) return scores.affine;
  const Affine<typename T::Scalar> affine = scores.finish_special(s, tile, positive);
  if constexpr (Ring<T>::kKnown) ring.plain = scores.next_look(tile + 1);
  return affine;
}

// Calls visit(s, tile) with the products of every tile of a block of rows.
template <class T, class Visit>
__device__ __forceinline__ void walk_tiles(Ring<T>& ring, const Place<T>& place, Visit&& visit) {
  const int lane = threadIdx.x % 32;
  const StepOffsets rows(place.row * kRowBytes + T::Math::rows_offset(lane)),
      columns(place.column * kRowBytes + T::Math::columns_offset(lane));
  const int last_tile = ring.last_tile();
  int tile = ring.tile;
  ring.start();
  for (; tile < last_tile; tile++) {
    Tile<T> s = {};
    multiply_tile<T>(s, ring, 0, rows, columns, [] {});
    visit(s, tile);
  }
  await_all_copies();  // none is left unless nothing streams by
}

// Writes part_of(k), which the four threads of a row agree upon, to parts [splits][warps across][owner rows].
template <class Part, class T, class PartOf>
__device__ __forceinline__ void write_rows(const Ring<T>& ring, const Place<T>& place, void* parts, PartOf&& part_of) {
  const int64_t rows = ring.walk.owner.rows;
  Part* const to = static_cast<Part*>(parts) + (blockIdx.y * T::kWarpsAcross + place.column / T::kWarpColumns) * rows;
#pragma unroll
  for (int k = 0; k < 2 * T::kRowBlocks; k++) {
    const Part part = part_of(k);
    const int64_t row = ring.first_row() + place.row + place.row_of(k / 2, k % 2);
    if (place.t == 0 && row < rows) to[row] = part;
  }
}

}  // namespace mi::cuda
