// E = 2^(s - r) with a lazy reference r per query: r follows the largest score only when it is left behind by 2^60, so
// a tile is exponentiated straight from its registers, and no element is ever normalised.
#pragma once
#include "../core/log_sum_exp.h"
#include "scores-inl.h"

namespace mi {
namespace MI_ISA {

template <class T>
constexpr T kLazyRange = 60;
template <class T>
constexpr T kLowest = std::numeric_limits<T>::lowest();

// The reference, in log2 units, for scores of which `highest` is the largest, in any unit; `kLowest`: all are excluded,
// or NaN.
template <class T>
MI_INLINE T reference_for(T highest, T unit) {
  if (highest == kLowest<T>) return 0;
  const T reference = highest * unit;
  return reference < std::numeric_limits<T>::max() ? reference : std::numeric_limits<T>::max();
}

// Running log-sum-exp of each query of a block.
template <class T>
struct RowSums {
  T* reference = nullptr;   // r
  T* sum = nullptr;         // of E, over the candidates since the last fold
  double* total = nullptr;  // of E, before that

  void place(Arena& arena) {
    reference = arena.take<T>(kQueryBlock);
    sum = arena.take<T>(kQueryBlock);
    total = arena.take<double>(kQueryBlock);
  }
  void clear() const {
    for (int64_t i = 0; i < kQueryBlock; i++) reference[i] = kLowest<T>, sum[i] = 0, total[i] = 0;
  }
  // Short float sums, long double ones.
  void fold() const {
    for (int64_t i = 0; i < kQueryBlock; i++) total[i] += sum[i], sum[i] = 0;
  }
  LogSumExp2 at(int64_t i) const { return {static_cast<double>(reference[i]), total[i]}; }
};

// Everything that is already measured against the old references.
template <class T>
struct Referenced {
  T* exponentials = nullptr;  // E [candidates][kQueryBlock]
  int64_t candidates = 0;     // how many rows of E are filled
  T* products = nullptr;      // [rows][width] sums of E y
  int64_t width = 0, rows = 0;
};

// Raises the references of the lanes whose score `highest` leaves the range. Rare.
template <class T>
MI_NOINLINE void raise_references(const RowSums<T>& sums, const Referenced<T>& done, int64_t lane, const T* highest,
                                  int64_t lanes) {
  T factor[kVectorsWide * kLanes<T>];
  for (int64_t i = 0; i < lanes; i++) {
    const T old = sums.reference[lane + i];
    factor[i] = 1;
    if (!(highest[i] > old + kLazyRange<T>)) continue;
    const T raised = highest[i] < std::numeric_limits<T>::max() ? highest[i] : std::numeric_limits<T>::max();
    factor[i] = static_cast<T>(std::exp2(static_cast<double>(old) - static_cast<double>(raised)));
    sums.reference[lane + i] = raised;
    sums.sum[lane + i] *= factor[i];
    sums.total[lane + i] *= factor[i];
    if (done.products && lane + i < done.rows)
      for (int64_t k = 0; k < done.width; k++) done.products[(lane + i) * done.width + k] *= factor[i];
  }
  for (int64_t j = 0; j < done.candidates; j++)
    for (int64_t i = 0; i < lanes; i += kLanes<T>) {
      T* place = done.exponentials + j * kQueryBlock + lane + i;
      store(place, load(place) * load(factor + i));
    }
}

// References that a tile of scores leaves behind follow it: raise(highest, lanes).
template <class T, int kRows, int kVectors, class Raise>
MI_INLINE void follow_highest(const Tile<T, kRows, kVectors>& s, const RowSums<T>& sums, int64_t lane, Raise&& raise) {
  Vec<T> highest[kVectors];
  bool left_behind = false;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; v++) {
    highest[v] = s.at[0][v];
#pragma GCC unroll 6
    for (int r = 1; r < kRows; r++) highest[v] = max<T>(s.at[r][v], highest[v]);
    left_behind |= any_greater<T>(highest[v], load(sums.reference + lane + v * kLanes<T>) + kLazyRange<T>);
  }
  if (__builtin_expect(left_behind, 0)) {
    T spilled[kVectors * kLanes<T>];
    for (int v = 0; v < kVectors; v++) store(&spilled[v * kLanes<T>], highest[v]);
    raise(spilled, kVectors * kLanes<T>);
  }
}

// Turns a tile of scores into exponentials and adds their sums: keep(v, e) gets those of all rows in vector v.
template <class T, int kRows, int kVectors, class Raise, class Keep>
MI_INLINE void exponentiate_tile(const Tile<T, kRows, kVectors>& s, const RowSums<T>& sums, int64_t lane, Raise&& raise,
                                 Keep&& keep) {
  follow_highest(s, sums, lane, raise);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; v++) {
    const int64_t at = lane + v * kLanes<T>;
    const Vec<T> reference = load(sums.reference + at);
    Vec<T> e[kRows];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++) e[r] = s.at[r][v] - reference;
    exp2_all<T>(e);
    keep(v, e);
    store(sums.sum + at, load(sums.sum + at) + sum_of<T>(e));
  }
}

// The same, where what is kept so far follows a raised reference, and E is kept where asked to.
template <bool kKeep, class T, int kRows, int kVectors>
MI_INLINE void exponentiate_rows(const Tile<T, kRows, kVectors>& s, const RowSums<T>& sums, const Referenced<T>& done,
                                 int64_t lane, T* kept) {
  exponentiate_tile(
      s, sums, lane, [&](const T* highest, int64_t lanes) { raise_references(sums, done, lane, highest, lanes); },
      [&](int v, const Vec<T>(&e)[kRows]) __attribute__((always_inline)) {
#pragma GCC unroll 6
        for (int r = 0; r < kRows; r++)
          if constexpr (kKeep) store(kept + r * kQueryBlock + lane + v * kLanes<T>, e[r]);
      });
}

template <bool kKeep, class T, int kRows, int kVectors>
MI_NOINLINE void lazy_exponential_tile(const BlockScores<T>& scores, const RowSums<T>& sums, const Referenced<T>& done,
                                       int64_t j, int64_t vector, T* kept) {
  const auto s = scores.template tile<kRows, kVectors>(j, vector);
  exponentiate_rows<kKeep>(s, sums, done, vector * kLanes<T>, kept);
}

}  // namespace MI_ISA
}  // namespace mi
