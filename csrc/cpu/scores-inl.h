// A tile of scores: candidates down, queries across the lanes, in log2 units, exclusions already at -inf.
#pragma once
#include "features-inl.h"

namespace mi {
namespace MI_ISA {

// What happens to a tile of scores before it is reduced: bias, clip, positives taken out, exclusions at -inf,
// log-weights. Most tiles have none of it and never leave the registers.
template <class T>
struct TileExclusions {
  const CandidateSide<T>& side;
  const QueryBlock<T>& queries;
  T bias = 0;               // log2 units
  T clip = 0;               // log2 units; 0: none
  bool weights_add = true;  // v_j is added to the score (log-sum-exp); false: the caller multiplies by e^{v_j}
  bool everywhere = bias != 0 || clip != 0 || side.label || side.log_weight;

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void apply(Tile<T, kRows, kVectors>& s, int64_t j, int64_t lane) const {
    if (!everywhere && !has_positive(j, kRows)) return;
    T scores[kRows][kVectors * kLanes<T>];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) store(&scores[r][v * kLanes<T>], s.at[r][v]);
    exclude<kRows, kVectors * kLanes<T>>(*this, scores, j, lane);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) s.at[r][v] = load(&scores[r][v * kLanes<T>]);
  }

 private:
  bool has_positive(int64_t j, int rows) const {
    return queries.has_positive &&
           (queries.has_positive[j / kRowsHigh] | queries.has_positive[(j + rows - 1) / kRowsHigh]);
  }

  template <int kRows, int kWidth>
  MI_NOINLINE void exclude(const TileExclusions& self, T (*scores)[kWidth], int64_t j, int64_t lane) {
    for (int r = 0; r < kRows; r++)
      for (int i = 0; i < kWidth; i += kLanes<T>) store(scores[r] + i, self.shifted(load(scores[r] + i)));
    if (self.has_positive(j, kRows)) self.template take_positives<kRows, kWidth>(scores, j, lane);
    for (int r = 0; r < kRows; r++)
      for (int i = 0; i < kWidth; i += kLanes<T>)
        store(scores[r] + i, self.negatives_only(load(scores[r] + i), j + r, lane + i));
  }

  // Plus the bias, clamped to [-clip, clip]; NaN stays NaN.
  inline __attribute__((always_inline)) Vec<T> shifted(Vec<T> score) const {
    if (bias != 0) score += bias;
    if (clip != 0) score = min<T>(broadcast(clip), max<T>(broadcast(-clip), score));
    return score;
  }

  // The positive's score leaves the tile from the same accumulators as the negatives'.
  template <int kRows, int kWidth>
  inline __attribute__((always_inline)) void take_positives(T (*scores)[kWidth], int64_t j, int64_t lane) const {
    for (int i = 0; i < kWidth; i++) {
      const int64_t r = queries.target[lane + i] - j;
      if (r < 0 || r >= kRows) continue;
      queries.positive[lane + i] = scores[r][i];
      scores[r][i] = -std::numeric_limits<T>::infinity();
    }
  }

  // -inf where labels agree or the log-weight removes column j. Where weights multiply, the caller does so.
  inline __attribute__((always_inline)) Vec<T> negatives_only(Vec<T> score, int64_t j, int64_t lane) const {
    const Vec<T> excluded = broadcast(-std::numeric_limits<T>::infinity());
    if (side.label) score = broadcast(side.label[j]) == load(queries.label + lane) ? excluded : score;
    if (side.log_weight) {
      const T weight = side.log_weight[j];
      if (weight == (weights_add ? -std::numeric_limits<T>::infinity() : T(0))) return excluded;
      if (weights_add) score = score == excluded ? excluded : score + weight;  // no -inf + inf
    }
    return score;
  }
};

template <class T>
struct BlockScores {
  using Scalar = T;

  int64_t dim;
  const Candidates<T>& candidates;
  const TransposedQueries<T>& transposed;
  TileExclusions<T> exclusions;

  int64_t vectors() const { return exclusions.queries.vectors; }

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) Tile<T, kRows, kVectors> tile(int64_t j, int64_t first_vector) const {
    const int64_t lane = first_vector * kLanes<T>;
    const T* y = candidates.data + j * candidates.pitch;
    const T* x = transposed.at(lane);
    // Every chunk of d is a chain of its own: the roundings of one chain over all of d would add up to d / kChunk times
    // the error.
    auto s = Tile<T, kRows, kVectors>::zero();
    Tile<T, kRows, kVectors> earlier;  // the sum of the chunks before
    for (int64_t k = 0;; k += kChunk, y += candidates.chunk, x += kChunk * kPanel<T>) {
      s.multiply_add(y, candidates.pitch, 1, x, kPanel<T>, smaller(kChunk, dim - k));
      if (k > 0) s += earlier;
      if (k + kChunk >= dim) break;
      earlier = s;
      s = Tile<T, kRows, kVectors>::zero();
    }
    exclusions.apply(s, j, lane);
    return s;
  }
};

// Visits candidates [first, last) x the block's queries tile by tile. A panel of queries stays in the nearest cache
// while kCandidateBlock candidates pass; `after_block(j)` runs when all queries have seen the candidates before j.
template <class T>
struct ScoreTiles {
  template <class Scores, class Visitor, class AfterBlock>
  MI_INLINE void visit(const Scores& scores, int64_t first, int64_t last, Visitor&& visitor, AfterBlock&& after_block) {
    for (int64_t j = first; j < last; j += kCandidateBlock) {
      const int64_t count = smaller(kCandidateBlock, last - j);
      for_vector_tiles(scores.vectors(), [&](auto vectors, int64_t vector) {
        for_row_tiles(count, [&](auto rows, int64_t row) { visitor(rows, vectors, j + row, vector); });
      });
      after_block(j + count);
    }
  }
};

template <class Scores, class Visitor, class AfterBlock>
MI_INLINE void for_score_tiles(const Scores& scores, int64_t first, int64_t last, Visitor&& visitor,
                               AfterBlock&& after_block) {
  ScoreTiles<typename Scores::Scalar>::visit(scores, first, last, visitor, after_block);
}

}  // namespace MI_ISA
}  // namespace mi
