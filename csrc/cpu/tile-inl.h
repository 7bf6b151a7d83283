// The micro-kernel: a tile of rows x vectors of accumulators held in registers over a whole K loop.
#pragma once
#include <utility>

#include "vec.h"

namespace mi {
namespace MI_ISA {

// Lanes of the widest tile. Operands read a vector at a time lie in panels of so many columns: a tile walks them in one
// stream, and no pitch puts their lines into few cache sets.
template <class T>
constexpr int64_t kPanel = kVectorsWide * kLanes<T>;

template <int N>
using Constant = std::integral_constant<int, N>;

// Calls body(Constant<rows>, first) over 0..count in tiles of 6, then 2, then 1 rows.
template <class Body>
MI_INLINE void for_row_tiles(int64_t count, Body&& body) {
  int64_t first = 0;
  for (; first + kRowsHigh <= count; first += kRowsHigh) body(Constant<kRowsHigh>{}, first);
  for (; first + 2 <= count; first += 2) body(Constant<2>{}, first);
  if (first < count) body(Constant<1>{}, first);
}

// The same over vectors of lanes, in tiles of 4, 2, 1 (or 2, 1) vectors.
template <class Body>
MI_INLINE void for_vector_tiles(int64_t count, Body&& body) {
  int64_t first = 0;
  for (; first + kVectorsWide <= count; first += kVectorsWide) body(Constant<kVectorsWide>{}, first);
  if constexpr (kVectorsWide > 2)
    for (; first + 2 <= count; first += 2) body(Constant<2>{}, first);
  for (; first < count; first++) body(Constant<1>{}, first);
}

template <class T, int kRows, int kVectors>
struct Tile {
  Vec<T> at[kRows][kVectors];

  MI_INLINE Tile zero() { return {}; }

  inline __attribute__((always_inline)) void operator+=(const Tile& other) {
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) at[r][v] += other.at[r][v];
  }

  // at[r][v] += sum_k a[r, k] b[k, v]: a is broadcast element by element, b is read a vector at a time.
  inline __attribute__((always_inline)) void multiply_add(const T* __restrict a, int64_t a_row, int64_t a_step,
                                                          const T* __restrict b, int64_t b_step, int64_t steps) {
    for (int64_t k = 0; k < steps; k++) {
      Vec<T> operand[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) operand[v] = load(b + k * b_step + v * kLanes<T>);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; r++) {
        const Vec<T> scalar = broadcast(a[r * a_row + k * a_step]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++) at[r][v] += scalar * operand[v];
      }
    }
  }

  // Sums of many tiles are formed tile by tile, then added: the error grows with the number of tiles, not of products.
  inline __attribute__((always_inline)) void add_to(T* c, int64_t pitch) const {
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) {
        T* place = c + r * pitch + v * kLanes<T>;
        store(place, load(place) + at[r][v]);
      }
  }
};

template <class T, int kRows, int kVectors>
MI_NOINLINE void multiply_add_tile(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_step, int64_t steps,
                                   T* c, int64_t c_pitch) {
  // The sums lie far away; called for now, they are here when the products are done.
#pragma GCC unroll 6
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) __builtin_prefetch(c + r * c_pitch + v * kLanes<T>, 1);
  auto tile = Tile<T, kRows, kVectors>::zero();
  tile.multiply_add(a, a_row, a_step, b, b_step, steps);
  tile.add_to(c, c_pitch);
}

}  // namespace MI_ISA
}  // namespace mi
