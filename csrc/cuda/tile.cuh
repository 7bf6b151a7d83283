// Shared memory of a block of threads: chunks of both sides' features and what is known of their rows, brought in by
// asynchronous copies a few steps ahead of their use.
#pragma once
#include <type_traits>

#include "copies.cuh"
#include "traits.cuh"
#include "walk.h"

namespace mi::cuda {

template <class Scalar>
struct alignas(2 * sizeof(Scalar)) Pair {
  Scalar of[2];
};

// What is known of the rows of a tile, besides their features.
template <class Scalar, int kCount>
struct SideTile {
  Term<Scalar> term[kCount];
  Scalar reference[kCount];  // of the terms, see place_of
  int64_t target[kCount];
  int64_t label[kCount];
  Scalar log_weight[kCount];

  // Where the references of two rows lie, 2 pair and the next: the four that a thread needs of two blocks are together.
  static __device__ __forceinline__ int place_of(int pair) { return pair / 8 * 16 + pair % 4 * 4 + pair / 4 % 2 * 2; }

  // whole: all rows are there.
  __device__ __forceinline__ void load(const WalkSide& side, int64_t first, bool whole) {
    const int k = static_cast<int>(opaque(threadIdx.x));
    if (k >= kCount) return;
    whole ? load_row<true>(side, first, k) : load_row<false>(side, first, k);
  }
  template <bool kWhole>
  __device__ __forceinline__ void load_row(const WalkSide& side, int64_t first, int k) {
    const int64_t row = first + k;
    auto load_one = [&](auto* to, const auto* from) {
      using Value = std::remove_reference_t<decltype(*to)>;
      constexpr int kPart = sizeof(Value) < 16 ? sizeof(Value) : 16;
      const char* source = reinterpret_cast<const char*>(from);
#pragma unroll
      for (int byte = 0; byte < static_cast<int>(sizeof(Value)); byte += kPart)
        copy_or_zero<kPart>(shared_address(to + k) + byte, source + byte, kWhole || row < side.rows);
    };
    if (side.target) load_one(target, side.target + row);
    if (side.label) load_one(label, side.label + row);
    if (side.log_weight) load_one(log_weight, static_cast<const Scalar*>(side.log_weight) + row);
    if (side.terms) {
      const Term<Scalar>* from = static_cast<const Term<Scalar>*>(side.terms) + row;
      load_one(term, from);
    }
  }
};

// Where a look at a tile is due: there is a target, of the owner's rows or among them, from the `first` of the warps'
// tiles to the `last`; nothing else makes the first `plain` tiles special.
struct Looks {
  int first[kWarps], last[kWarps], plain;
};

// Steps of a walk: per streamed tile all chunks of d, then, for a gradient, the chunks of the features it accumulates,
// unless `held`: then one step brings all chunks of a tile and they serve both.
template <class T>
struct Ring {
  using Scalar = typename T::Scalar;
  using Streamed = SideTile<Scalar, T::kColumns>;
  using Owner = SideTile<Scalar, T::kRows>;
  static constexpr bool kKnown = T::kChunks > 0;
  static constexpr bool kHeld = T::kChunks > 0 && T::kChunks <= T::kValueChunks;
  // The steps of a tile, where they are known and the same for all blocks.
  static constexpr bool kAlike = kKnown && (T::kChunks % (T::kValueChunks == 0 ? 1 : T::kValueChunks) == 0);
  static constexpr int kSteps = kHeld ? 1 : kAlike ? T::kChunks + T::kValueChunks : 0;
  static constexpr int kOwnerChunk = T::kRows * kRowBytes, kStreamedChunk = T::kColumns * kRowBytes;

  // Bytes: the resident chunks of the owner, the steps' slots, the side tiles, where to look.
  struct Layout {
    int chunks;
    __host__ __device__ explicit Layout(int64_t row_bytes)
        : chunks(T::kChunks > 0 ? T::kChunks : static_cast<int>(ceil_div(row_bytes, kRowBytes))) {}
    __host__ __device__ bool resident() const { return chunks <= T::kResident; }
    __host__ __device__ bool held() const { return chunks <= T::kValueChunks; }
    // Rows that registers hold have left shared memory before the second slot is written: they come to where that lies.
    __host__ __device__ int first_owner() const { return T::kHoldsRows ? slot() : 0; }
    __host__ __device__ int first_slot() const { return resident() && !T::kHoldsRows ? chunks * kOwnerChunk : 0; }
    __host__ __device__ int slot() const {
      return (held() ? chunks : 1) * kStreamedChunk + (resident() ? 0 : kOwnerChunk);
    }
    __host__ __device__ int sides() const {
      const int slots = first_slot() + kStages * slot();
      return T::kHoldsRows && slots < first_owner() + chunks * kOwnerChunk ? first_owner() + chunks * kOwnerChunk
                                                                           : slots;
    }
    __host__ __device__ int looks() const {
      return sides() + static_cast<int>(sizeof(Owner) + kStages * sizeof(Streamed));
    }
    __host__ __device__ int bytes() const { return looks() + static_cast<int>(sizeof(Looks)); }
  };

  const Walk& walk;
  const Layout l;
  unsigned char* shared;
  int passed;       // blocks of the owner's rows, of those that a block of threads takes one after the other
  int tile;         // next to bring in
  int step = 0;     // next to bring in within its tile
  uint32_t used;    // slot in use: its address
  bool bare;        // nothing but features streams by
  int end;          // of this split's tiles
  int whole_tiles;  // these first ones are copied without a look at their edges
  bool owner_whole;
  int plain = 0;  // tiles before it need no look at exclusions or edges, nor anything of their rows besides features
  uint32_t kept_place;  // see place
  uint32_t next;        // where this thread's copies of `tile` begin in the streamed side, see `from`, in segments

  __device__ Ring(const Walk& walk, unsigned char* shared, int passed = 0)
      : walk(walk),
        l(walk.row_bytes),
        shared(shared),
        passed(passed),
        tile(blockIdx.y * walk.tiles_per_split),
        used(slot(1)) {
    kept_place = opaque(place_of(threadIdx.x));
    const int tiles = static_cast<int>(ceil_div(walk.streamed.rows, T::kColumns));
    end = min(tiles, (blockIdx.y + 1) * walk.tiles_per_split);
    whole_tiles = whole(walk.streamed) ? static_cast<int>(walk.streamed.rows / T::kColumns) : 0;
    owner_whole = whole(walk.owner) && first_row() + T::kRows <= walk.owner.rows;
    const WalkSide& y = walk.streamed;
    bare = !y.target && !y.label && !y.log_weight && !y.terms;
  }

  __device__ __forceinline__ int last_tile() const { return end; }
  static __device__ int first_value() {
    return T::kChunks > 0 && T::kChunks <= T::kValueChunks ? 0 : blockIdx.z * T::kValueChunks;
  }
  __device__ __forceinline__ int steps() const {
    return kSteps > 0 ? kSteps : l.held() ? 1 : l.chunks + min(l.chunks - first_value(), T::kValueChunks);
  }
  __device__ int64_t first_row() const {
    return static_cast<int64_t>(blockIdx.x + (T::kPasses ? passed : 0)) * T::kRows;
  }
  static __device__ int64_t first_column(int tile) { return static_cast<int64_t>(tile) * T::kColumns; }
  __device__ Owner& owner() const { return *reinterpret_cast<Owner*>(shared + l.sides()); }
  __device__ Streamed& streamed(int tile) const {
    return reinterpret_cast<Streamed*>(shared + l.sides() + sizeof(Owner))[tile % kStages];
  }
  __device__ Looks& looks() const { return *reinterpret_cast<Looks*>(shared + l.looks()); }
  __device__ uint32_t slot(int k) const { return shared_address(shared) + l.first_slot() + k * l.slot(); }

  __device__ uint32_t unused() const { return slot(0) + slot(1) - used; }

  // Chunks are whole, rows lie side by side where the number of chunks is known, and 32 bits tell a row, a pitch and a
  // segment.
  __device__ __forceinline__ bool whole(const WalkSide& side) const {
    return walk.row_bytes == l.chunks * kRowBytes &&
           (kKnown ? side.pitch == walk.row_bytes : side.pitch < int64_t{1} << 31) && side.rows < int64_t{1} << 31 &&
           side.rows * side.pitch < int64_t{kSegmentBytes} << 32;
  }
  static __device__ __forceinline__ uint32_t pitch(const WalkSide& side) {
    return kKnown ? T::kChunks * kRowBytes : static_cast<uint32_t>(side.pitch);
  }
  // Eight threads copy a row of a chunk, one after the other: rows k, k + 8, k + 32, k + 40 and so on. Where rows of
  // 256 bytes lie side by side the distance of two of them from the second fits into an instruction.
  static constexpr int kRowsTogether = kThreads / 8, kFirstCounted = kKnown ? 8 : 0;
  static __device__ __forceinline__ int copied_row(int thread) {
    return kKnown ? thread / 8 % 8 + thread / 64 * 16 : thread / 8;
  }
  static __device__ __forceinline__ int further_row(int copy) {
    return kKnown ? copy / 2 * 32 + copy % 2 * 8 : kRowsTogether * copy;
  }
  static __device__ __forceinline__ uint32_t place_of(int thread) {
    const int row = copied_row(thread);
    return row * kRowBytes + T::Math::segment(row, thread % 8) * kSegmentBytes;
  }
  // Where this thread's copies go in a chunk: held in a register between steps only where those suffice.
  __device__ __forceinline__ uint32_t place() const { return kKnown ? kept_place : place_of(opaque(threadIdx.x)); }
  // Row kFirstCounted of those that this thread copies from `first` on.
  static __device__ __forceinline__ const char* from(const WalkSide& side, int64_t first) {
    return static_cast<const char*>(side.data) + (first + copied_row(threadIdx.x) + kFirstCounted) * side.pitch +
           threadIdx.x % 8 * kSegmentBytes;
  }
  // Chunks of kCount whole rows, one behind the other.
  template <int kCount, int kChunks = 1>
  __device__ __forceinline__ void load_whole_chunks(uint32_t to, const WalkSide& side, const char* from) const {
    to += place();
#pragma unroll
    for (int copy = 0; copy < kCount / kRowsTogether; copy++) {
      const int row = further_row(copy), counted = kKnown ? (row - kFirstCounted) * static_cast<int>(pitch(side)) : 0;
#pragma unroll
      for (int c = 0; c < kChunks; c++)
        copy_async<16>(to + (c * kCount + row) * kRowBytes, from + counted + c * kRowBytes, 16);
      if (!kKnown) from = multiply_add(pitch(side), further_row(copy + 1) - row, from);
    }
  }
  template <int kCount>
  __device__ __forceinline__ void load_chunk(uint32_t to, const WalkSide& side, int64_t first, int chunk) const {
    const int thread = opaque(threadIdx.x);
    const int row = copied_row(thread), segment = thread % 8;
    const int64_t column = static_cast<int64_t>(chunk) * kRowBytes + segment * kSegmentBytes;
    const int bytes = static_cast<int>(max(int64_t{0}, min(int64_t{kSegmentBytes}, walk.row_bytes - column)));
    const int rows = static_cast<int>(min(int64_t{kCount}, side.rows - first)) - row;
    const char* from = static_cast<const char*>(side.data) + (first + row) * side.pitch + column;
    to += place();
#pragma unroll 1
    for (int copy = 0; copy < kCount / kRowsTogether; copy++) {
      const int k = further_row(copy);
      copy_async<16>(to + k * kRowBytes, from + k * side.pitch, k < rows ? bytes : 0);
    }
  }

  __device__ void start() {
    start([] {});
  }
  template <class Fetch>
  __device__ void start(Fetch&& fetch) {
    const char* first = from(walk.streamed, first_column(tile));
    next = static_cast<uint32_t>((first - static_cast<const char*>(walk.streamed.data)) / kSegmentBytes);
    owner().load(walk.owner, first_row(), false);
    if (l.resident())
#pragma unroll 1
      for (int c = 0; c < l.chunks; c++) load_chunk<T::kRows>(owner_chunk(c), walk.owner, first_row(), c);
    bring(fetch);
  }

  __device__ __forceinline__ const char* next_copies() const {
    return static_cast<const char*>(walk.streamed.data) + uint64_t{next} * kSegmentBytes;
  }
  __device__ __forceinline__ void bring_streamed(uint32_t to, int chunk) {
    if (tile < whole_tiles) {
      const char* from = next_copies();
      if constexpr (kHeld)
        load_whole_chunks<T::kColumns, T::kChunks>(to, walk.streamed, from);
      else
        for (int c = 0; c < (l.held() ? l.chunks : 1); c++)
          load_whole_chunks<T::kColumns>(to + c * kStreamedChunk, walk.streamed, from + (chunk + c) * kRowBytes);
    } else {
#pragma unroll 1
      for (int c = 0; c < (l.held() ? l.chunks : 1); c++)
        load_chunk<T::kColumns>(to + c * kStreamedChunk, walk.streamed, first_column(tile), chunk + c);
    }
  }
  __device__ __forceinline__ void bring_owner(uint32_t to, int chunk) {
    if (owner_whole)
      load_whole_chunks<T::kRows>(to, walk.owner, from(walk.owner, first_row()) + chunk * kRowBytes);
    else
      load_chunk<T::kRows>(to, walk.owner, first_row(), chunk);
  }

  // Brings the next step in, if there is one, to the slot that is not in use. fetch() brings in what else a kernel
  // needs of each tile, and of one past the last.
  template <class Fetch>
  __device__ __forceinline__ void bring(Fetch&& fetch) {
    const uint32_t to = unused();
    const bool value = step >= l.chunks;
    const int chunk = l.held() ? 0 : value ? first_value() + step - l.chunks : step;
    if (kKnown && tile < plain) {
      load_whole_chunks<T::kColumns, kHeld ? T::kChunks : 1>(to, walk.streamed, next_copies() + chunk * kRowBytes);
      if (step == 0) fetch();
    } else {
      if (step == 0) fetch();
      if (tile < last_tile()) {
        if (!bare && step == 0) streamed(tile).load(walk.streamed, first_column(tile), tile < whole_tiles);
        bring_streamed(to, chunk);
        if (!l.resident() && !value) bring_owner(to + kStreamedChunk, step);
      }
    }
    if (++step < steps()) return;
    step = 0, tile++;
    next += pitch(walk.streamed) / kSegmentBytes * T::kColumns;
  }

  // Waits for the next step; the one before is no longer needed by anyone.
  __device__ __forceinline__ void advance() {
    advance([] {});
  }
  template <class Fetch>
  __device__ __forceinline__ void advance(Fetch&& fetch) {
    await_all_copies();
    if constexpr (T::kWarpgroup) show_copies_to_warpgroups();
    __syncthreads();
    used = unused();
    bring(fetch);
  }

  __device__ __forceinline__ uint32_t streamed_chunk(int c) const { return used + (l.held() ? c * kStreamedChunk : 0); }
  __device__ __forceinline__ uint32_t owner_chunk(int c) const {
    return l.resident() ? shared_address(shared) + l.first_owner() + c * kOwnerChunk : used + kStreamedChunk;
  }
};

}  // namespace mi::cuda
