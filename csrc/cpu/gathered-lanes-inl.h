// Weights of all pairs of some rows of a bank with a block of queries, one a lane: c_ij times the weight of s_ij, where
// c_ij counts how often the index of query i names row j; 0 where it does not, be the score what it may.
#pragma once
#include "gathered-weights-inl.h"

namespace mi {
namespace MI_ISA {

// A tile of scores: in `weights` [rows][kQueryBlock] lie its c, which become its weights.
template <class T>
struct LaneTile {
  T* weights;
  int64_t lane;
  Referenced<T> done;

  inline __attribute__((always_inline)) T* at(int row, int vector) const {
    return weights + row * kQueryBlock + lane + vector * kLanes<T>;
  }
};

// c 2^(s - r), with the reference r of RowSums; pairs there are not have the score -inf.
template <class T>
struct ExponentialLanes {
  using Result = LogSumExp2;

  RowSums<T> sums;

  void place(Arena& arena) { sums.place(arena); }
  void clear() const { sums.clear(); }
  void fold() const { sums.fold(); }
  Result at(int64_t q) const { return sums.at(q); }
  static double in_units_of(const Result& whole, const Result& part) {
    return std::exp2(part.reference - whole.reference);
  }

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void weigh(Tile<T, kRows, kVectors>& s, const LaneTile<T>& tile) const {
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++)
        s.at[r][v] = load(tile.at(r, v)) > 0 ? s.at[r][v] : broadcast(-std::numeric_limits<T>::infinity());
    follow_highest(s, sums, tile.lane, [&](const T* highest, int64_t lanes) {
      raise_references(sums, tile.done, tile.lane, highest, lanes);
    });
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      const int64_t at = tile.lane + v * kLanes<T>;
      const Vec<T> reference = load(sums.reference + at);
      Vec<T> e[kRows];
#pragma GCC unroll 6
      for (int r = 0; r < kRows; r++) e[r] = s.at[r][v] - reference;
      exp2_all<T>(e);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; r++) {
        e[r] *= load(tile.at(r, v));
        store(tile.at(r, v), e[r]);
      }
      store(sums.sum + at, load(sums.sum + at) + sum_of<T>(e));
    }
  }
};

// c 2^(s - r) with r known beforehand.
template <class T>
struct KnownExponentialLanes {
  const T* reference = nullptr;  // [n] of all queries, the first of the block

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void weigh(Tile<T, kRows, kVectors>& s, const LaneTile<T>& tile) const {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      const Vec<T> r = load(reference + tile.lane + v * kLanes<T>);
      Vec<T> e[kRows];
#pragma GCC unroll 6
      for (int row = 0; row < kRows; row++) e[row] = s.at[row][v] - r;
      exp2_all<T>(e);
#pragma GCC unroll 6
      for (int row = 0; row < kRows; row++) {
        const Vec<T> times = load(tile.at(row, v));
        store(tile.at(row, v), times > 0 ? times * e[row] : Vec<T>{});
      }
    }
  }
};

// c sigmoid(s), and the sums of c softplus(s) and of c sigmoid(s).
template <class T>
struct SigmoidLanes {
  using Result = SoftplusSums;

  T *value = nullptr, *weight = nullptr;  // [kQueryBlock] over the rows since the last fold
  SoftplusSums* total = nullptr;          // [kQueryBlock] before that

  void place(Arena& arena) {
    value = arena.take<T>(kQueryBlock), weight = arena.take<T>(kQueryBlock);
    total = arena.take<SoftplusSums>(kQueryBlock);
  }
  void clear() const {
    for (int64_t q = 0; q < kQueryBlock; q++) value[q] = weight[q] = 0, total[q] = {};
  }
  void fold() const {
    for (int64_t q = 0; q < kQueryBlock; q++) {
      total[q].value += value[q], total[q].weight += weight[q];
      value[q] = weight[q] = 0;
    }
  }
  Result at(int64_t q) const { return total[q]; }
  static double in_units_of(const Result&, const Result&) { return 1; }

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void weigh(Tile<T, kRows, kVectors>& s, const LaneTile<T>& tile) const {
    weigh_sigmoids(
        s, [&](int row, int v) { return load(tile.at(row, v)); }, [&](int row, int v) { return tile.at(row, v); },
        value + tile.lane, weight + tile.lane);
  }
};

// The lanes that do what `Weights` do query by query.
template <class Weights>
struct LanesOf;
template <class T>
struct LanesOf<LazyExponentials<T>> {
  using Lanes = ExponentialLanes<T>;
};
template <class T>
struct LanesOf<Sigmoids<T>> {
  using Lanes = SigmoidLanes<T>;
};

}  // namespace MI_ISA
}  // namespace mi
