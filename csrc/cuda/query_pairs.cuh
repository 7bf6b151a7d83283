// Two query sets in one tile. Their rows are interleaved by 8: row 16 b + 8 h + g is query 8 b + g of set h, so that a
// thread's products are s' and s'' of the same pairs, whether the queries own the tile or stream by.
#pragma once
#include "scores.cuh"

namespace mi::cuda {

constexpr int kInterleave = 8;

// Of a row of both sets together.
struct PairedRow {
  int set;
  int64_t query;

  __host__ __device__ explicit PairedRow(int64_t row)
      : set(static_cast<int>(row / kInterleave % 2)),
        query(row / (2 * kInterleave) * kInterleave + row % kInterleave) {}

  static __host__ __device__ int64_t of(int set, int64_t query) {
    return query / kInterleave * 2 * kInterleave + set * kInterleave + query % kInterleave;
  }
};

template <class T, bool kQueriesOwn>
struct QueryPairs {
  using Scalar = typename T::Scalar;
  // Of this thread.
  static constexpr int kQueries = kQueriesOwn ? T::kRowBlocks : T::kColumnBlocks;
  static constexpr int kCandidates = 2 * (kQueriesOwn ? T::kColumnBlocks : T::kRowBlocks);

  const Scores<T>& scores;
  Scalar factor[2];      // from products to scores, log2 units
  const int64_t& count;  // n
  bool weighted;         // candidates have log-weights

  __device__ QueryPairs(const Scores<T>& scores, const double* second_scale, const int64_t& count)
      : scores(scores),
        factor{scores.affine.factor, static_cast<Scalar>(*second_scale * kLog2E)},
        count(count),
        weighted((kQueriesOwn ? scores.walk.streamed : scores.walk.owner).log_weight) {}

  // Of the a-th query of set h with the b-th candidate.
  static __device__ __forceinline__ Scalar& at(Tile<T>& s, int a, int b, int h) {
    if constexpr (kQueriesOwn)
      return s[a][b / 2][2 * h + b % 2];
    else
      return s[b / 2][a / 2 * 2 + h][2 * (b % 2) + a % 2];
  }
  // Within the warp's tile; a query's row in the second set lies kInterleave further on.
  __device__ __forceinline__ int query(int a) const {
    return kQueriesOwn ? scores.place.row_of(a, 0) : scores.place.column_of(a / 2 * 2, a % 2);
  }
  __device__ __forceinline__ int candidate(int b) const {
    return kQueriesOwn ? scores.place.column_of(b / 2, b % 2) : scores.place.row_of(b / 2, b % 2);
  }
  __device__ __forceinline__ int first_query() const { return kQueriesOwn ? scores.place.row : scores.place.column; }
  __device__ __forceinline__ int first_candidate() const {
    return kQueriesOwn ? scores.place.column : scores.place.row;
  }

  __device__ __forceinline__ auto& queries(int tile) const {
    if constexpr (kQueriesOwn)
      return scores.ring.owner();
    else
      return scores.ring.streamed(tile);
  }
  __device__ __forceinline__ auto& candidates(int tile) const {
    if constexpr (kQueriesOwn)
      return scores.ring.streamed(tile);
    else
      return scores.ring.owner();
  }
  __device__ __forceinline__ Scalar log_weight(int tile, int b) const {
    return candidates(tile).log_weight[first_candidate() + candidate(b)];
  }
  // v_j - reference beside a score: the highest number instead of +inf, so that -inf, as an excluded pair's, stays
  // -inf; the exponential of any other score is infinite all the same.
  template <bool kWeighted>
  static __device__ __forceinline__ Scalar above(Scalar reference, Scalar log_weight) {
    return kWeighted ? fmin(log_weight - reference, kHighest<T>) : -reference;
  }

  // The candidate that is the a-th query's positive, within the warp's tile; -1 where it is elsewhere.
  __device__ __forceinline__ int target(int tile, int a) const {
    return kQueriesOwn ? scores.owner_target(tile, a, 0) : scores.streamed_target(tile, a / 2 * 2, a % 2);
  }

  // Products become scores, log2 units, without log-weights: v_j enters each sum once. -inf in both sets where the pair
  // is no negative or has no query, NaN where v_j is. positive: of both sets [queries], null: not asked for.
  __device__ void finish(Tile<T>& s, int tile, double* const* positive, const double* second_scale) const {
    constexpr Scalar kInf = static_cast<Scalar>(kInfinity);
    const Walk& walk = scores.walk;
    const int left = static_cast<int>(min(walk.streamed.rows - scores.ring.first_column(tile), int64_t{T::kColumns})) -
                     scores.place.column;
#pragma unroll
    for (int a = 0; a < kQueries; a++) {
      const int is_positive = target(tile, a);
      const bool no_query =
          !kQueriesOwn && PairedRow(scores.ring.first_column(tile) + first_query() + query(a)).query >= count;
      const int64_t label = walk.owner.label ? queries(tile).label[first_query() + query(a)] : 0;
      Scalar found[2] = {};
#pragma unroll
      for (int b = 0; b < kCandidates; b++) {
        const int j = candidate(b);
        const bool gone = (kQueriesOwn && j >= left) || no_query || j == is_positive ||
                          (weighted && log_weight(tile, b) == -kInf) ||
                          (walk.owner.label && label == candidates(tile).label[first_candidate() + j]);
#pragma unroll
        for (int h = 0; h < 2; h++) {
          Scalar& x = at(s, a, b, h);
          found[h] = j == is_positive ? x : found[h];
          x = gone ? -kInf : x * factor[h];
        }
      }
      if (kQueriesOwn && positive[0]) write_positives(found, is_positive, a, positive, second_scale);
      read_again();
      if (weighted) spread_nan(s, a, tile);
    }
  }

  // A negative's scores are NaN where its v is: `above` takes that for +inf.
  __device__ __forceinline__ void spread_nan(Tile<T>& s, int a, int tile) const {
#pragma unroll
    for (int b = 0; b < kCandidates; b++) {
      const Scalar v = log_weight(tile, b);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        Scalar& x = at(s, a, b, h);
        x = v != v && x != -static_cast<Scalar>(kInfinity) ? v : x;
      }
    }
  }

  __device__ __forceinline__ void write_positives(const Scalar (&found)[2], int target, int a, double* const* positive,
                                                  const double* second_scale) const {
    if (target < 0 || (target & 6) != 2 * scores.place.t) return;
    const int64_t row = scores.ring.first_row() + first_query() + query(a);
    if (row >= scores.walk.owner.rows) return;
    const int64_t i = PairedRow(row).query;
    positive[0][i] = static_cast<double>(found[0]) * *scores.walk.scale;
    positive[1][i] = static_cast<double>(found[1]) * *second_scale;
  }
};

}  // namespace mi::cuda
