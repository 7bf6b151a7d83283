// Shared memory of a block of threads: chunks of both sides' features and what is known of their rows, brought in by
// asynchronous copies a few steps ahead of their use.
#pragma once
#include <type_traits>

#include "traits.cuh"
#include "walk.h"

namespace mi::cuda {

// `bytes` of `size` are copied, the rest is zero.
template <int kSize>
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, int bytes) {
  if constexpr (kSize == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(to), "l"(from), "r"(bytes), "n"(kSize)
                 : "memory");
}
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// What is known of rows and columns is read from shared memory again afterwards, not kept in registers.
__device__ __forceinline__ void read_again() { asm volatile("" ::: "memory"); }

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What is known of the rows of a tile, besides their features.
template <class Scalar, int kCount>
struct SideTile {
  Term<Scalar> term[kCount];
  int64_t target[kCount];
  int64_t label[kCount];
  Scalar log_weight[kCount];

  __device__ __forceinline__ void load(const WalkSide& side, int64_t first) {
    const int k = threadIdx.x;
    if (k >= kCount) return;
    const int64_t row = first + k;
    auto load_one = [&](auto* to, const void* from) {
      using Value = std::remove_reference_t<decltype(*to)>;
      constexpr int kPart = sizeof(Value) < 16 ? sizeof(Value) : 16;
      const char* source = reinterpret_cast<const char*>(static_cast<const Value*>(from) + row);
#pragma unroll
      for (int byte = 0; byte < static_cast<int>(sizeof(Value)); byte += kPart)
        copy_async<kPart>(shared_address(to + k) + byte, source + byte, row < side.rows ? kPart : 0);
    };
    if (side.target) load_one(target, side.target);
    if (side.label) load_one(label, side.label);
    if (side.log_weight) load_one(log_weight, side.log_weight);
    if (side.terms) load_one(term, side.terms);
  }
};

// Steps of a walk: per streamed tile all chunks of d, then, for a gradient, the chunks of the features it accumulates,
// unless `held`: then one step brings all chunks of a tile and they serve both.
template <class T>
struct Ring {
  using Scalar = typename T::Scalar;
  using Streamed = SideTile<Scalar, T::kColumns>;
  using Owner = SideTile<Scalar, T::kRows>;
  static constexpr int kOwnerChunk = T::kRows * kRowBytes, kStreamedChunk = T::kColumns * kRowBytes;

  // Bytes: the resident chunks of the owner, the steps' slots, the side tiles.
  struct Layout {
    int chunks;
    __host__ __device__ explicit Layout(int64_t row_bytes) : chunks(static_cast<int>(ceil_div(row_bytes, kRowBytes))) {}
    __host__ __device__ bool resident() const { return chunks <= T::kResident; }
    __host__ __device__ bool held() const { return chunks <= T::kValueChunks; }
    __host__ __device__ int first_slot() const { return resident() ? chunks * kOwnerChunk : 0; }
    __host__ __device__ int slot() const {
      return (held() ? chunks : 1) * kStreamedChunk + (resident() ? 0 : kOwnerChunk);
    }
    __host__ __device__ int sides() const { return first_slot() + kStages * slot(); }
    __host__ __device__ int bytes() const {
      return sides() + static_cast<int>(sizeof(Owner) + kStages * sizeof(Streamed));
    }
  };

  const Walk& walk;
  const Layout l;
  unsigned char* shared;
  int tile;      // next to bring in
  int step = 0;  // next to bring in within its tile
  int use = 1;   // slot in use

  __device__ Ring(const Walk& walk, unsigned char* shared)
      : walk(walk), l(walk.row_bytes), shared(shared), tile(blockIdx.y * walk.tiles_per_split) {}

  __device__ __forceinline__ int last_tile() const {
    const int tiles = static_cast<int>(ceil_div(walk.streamed.rows, T::kColumns));
    return min(tiles, (blockIdx.y + 1) * walk.tiles_per_split);
  }
  static __device__ int first_value() { return blockIdx.z * T::kValueChunks; }
  __device__ __forceinline__ int steps() const {
    return l.held() ? 1 : l.chunks + min(l.chunks - first_value(), T::kValueChunks);
  }
  static __device__ int64_t first_row() { return static_cast<int64_t>(blockIdx.x) * T::kRows; }
  static __device__ int64_t first_column(int tile) { return static_cast<int64_t>(tile) * T::kColumns; }
  __device__ Owner& owner() const { return *reinterpret_cast<Owner*>(shared + l.sides()); }
  __device__ Streamed& streamed(int tile) const {
    return reinterpret_cast<Streamed*>(shared + l.sides() + sizeof(Owner))[tile % kStages];
  }
  __device__ uint32_t slot(int k) const { return shared_address(shared) + l.first_slot() + k * l.slot(); }

  template <int kCount>
  __device__ __forceinline__ void load_chunk(uint32_t to, const WalkSide& side, int64_t first, int chunk) const {
    int thread = threadIdx.x;
    asm volatile("" : "+r"(thread));  // addresses are computed here, not kept in registers between steps
    const int row = thread / 8, segment = thread % 8;
    const int64_t column = static_cast<int64_t>(chunk) * kRowBytes + segment * kSegmentBytes;
    const int bytes = static_cast<int>(max(int64_t{0}, min(int64_t{kSegmentBytes}, walk.row_bytes - column)));
    const int rows = static_cast<int>(min(int64_t{kCount}, side.rows - first)) - row;
    const char* from = static_cast<const char*>(side.data) + (first + row) * side.pitch + column;
    to += row * kRowBytes + T::Math::segment(row, segment) * kSegmentBytes;
    constexpr int kTogether = kThreads / 8;
#pragma unroll
    for (int k = 0; k < kCount; k += kTogether) {
      copy_async<16>(to + k * kRowBytes, from, k < rows ? bytes : 0);
      from += kTogether * side.pitch;
    }
  }

  __device__ void start() {
    owner().load(walk.owner, first_row());
    if (l.resident())
      for (int c = 0; c < l.chunks; c++)
        load_chunk<T::kRows>(shared_address(shared) + c * kOwnerChunk, walk.owner, first_row(), c);
    bring();
  }

  // Brings the next step in, if there is one, to the slot that is not in use.
  __device__ __forceinline__ void bring() {
    if (tile < last_tile()) {
      const uint32_t to = slot(1 - use);
      const int64_t first = first_column(tile);
      if (step == 0) streamed(tile).load(walk.streamed, first);
      if (l.held()) {
        for (int c = 0; c < l.chunks; c++) load_chunk<T::kColumns>(to + c * kStreamedChunk, walk.streamed, first, c);
      } else {
        const bool value = step >= l.chunks;
        load_chunk<T::kColumns>(to, walk.streamed, first, value ? first_value() + step - l.chunks : step);
        if (!l.resident() && !value) load_chunk<T::kRows>(to + kStreamedChunk, walk.owner, first_row(), step);
      }
      if (++step == steps()) step = 0, tile++;
    }
    close_copies();
  }

  // Waits for the next step; the one before is no longer needed by anyone.
  __device__ __forceinline__ void advance() {
    await_copies<0>();
    __syncthreads();
    use = 1 - use;
    bring();
  }

  __device__ __forceinline__ uint32_t streamed_chunk(int c) const {
    return slot(use) + (l.held() ? c * kStreamedChunk : 0);
  }
  __device__ __forceinline__ uint32_t owner_chunk(int c) const {
    return l.resident() ? shared_address(shared) + c * kOwnerChunk : slot(use) + kStreamedChunk;
  }
};

// scores += owner's rows times streamed rows, over one chunk.
template <class T>
__device__ __forceinline__ void multiply_chunk(typename T::Scalar (&scores)[T::kRowBlocks][T::kColumnBlocks][4],
                                               uint32_t rows, uint32_t columns, bool exact) {
  using Math = typename T::Math;
#pragma unroll
  for (int k = 0; k < kRowBytes / kStepBytes; k++) {
    typename Math::Rows a[T::kRowBlocks];
#pragma unroll
    for (int r = 0; r < T::kRowBlocks; r++)
      a[r] = Math::load_rows((rows ^ (k * kStepBytes)) + r * 16 * kRowBytes, exact);
#pragma unroll
    for (int c = 0; c < T::kColumnBlocks; c += 2) {
      const typename Math::Columns b = Math::load_columns((columns ^ (k * kStepBytes)) + c * 8 * kRowBytes, exact);
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int r = 0; r < T::kRowBlocks; r++) Math::multiply(scores[r][c + half], a[r], b, half, exact);
    }
  }
}

}  // namespace mi::cuda
