// A tile of scores: candidates down, queries across the lanes, in log2 units, exclusions already at -inf.
#pragma once
#include "features-inl.h"

namespace mi {
namespace MI_ISA {

// What happens to a tile of scores before it is reduced: bias, clip, positives taken out, exclusions at -inf,
// log-weights.
template <class T>
struct TileExclusions {
  const CandidateSide<T>& side;
  const QueryBlock<T>& queries;
  T bias = 0;               // log2 units
  T clip = 0;               // log2 units; 0: none
  bool weights_add = true;  // v_j is added to the score (log-sum-exp); false: the caller multiplies by e^{v_j}

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void apply(Tile<T, kRows, kVectors>& s, int64_t j, int64_t lane) const {
    if (bias != 0)
      for (int r = 0; r < kRows; r++)
        for (int v = 0; v < kVectors; v++) s.at[r][v] += bias;
    if (clip != 0) clamp(s);
    if (queries.has_positive && queries.has_positive[j / kRowsHigh]) take_positives(s, j, lane);
    if (side.label) exclude_labels(s, j, lane);
    if (side.log_weight) add_log_weights(s, j);
  }

 private:
  // The positive's score leaves the tile from the same accumulators as the negatives'.
  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void take_positives(Tile<T, kRows, kVectors>& s, int64_t j,
                                                            int64_t lane) const {
    T scores[kRows][kVectors * kLanes<T>];
    for (int r = 0; r < kRows; r++)
      for (int v = 0; v < kVectors; v++) store(&scores[r][v * kLanes<T>], s.at[r][v]);
    for (int i = 0; i < kVectors * kLanes<T>; i++) {
      const int64_t r = queries.target[lane + i] - j;
      if (r < 0 || r >= kRows) continue;
      queries.positive[lane + i] = scores[r][i];
      scores[r][i] = -std::numeric_limits<T>::infinity();
    }
    for (int r = 0; r < kRows; r++)
      for (int v = 0; v < kVectors; v++) s.at[r][v] = load(&scores[r][v * kLanes<T>]);
  }

  // NaN stays NaN.
  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void clamp(Tile<T, kRows, kVectors>& s) const {
    const Vec<T> low = broadcast(-clip), high = broadcast(clip);
    for (int r = 0; r < kRows; r++)
      for (int v = 0; v < kVectors; v++) {
        const Vec<T> score = s.at[r][v];
        s.at[r][v] = score < low ? low : (score > high ? high : score);
      }
  }

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void exclude_labels(Tile<T, kRows, kVectors>& s, int64_t j,
                                                            int64_t lane) const {
    const Vec<T> excluded = broadcast(-std::numeric_limits<T>::infinity());
    for (int r = 0; r < kRows; r++) {
      const Vec<IntOf<T>> label = broadcast(side.label[j + r]);
      for (int v = 0; v < kVectors; v++)
        s.at[r][v] = label == load(queries.label + lane + v * kLanes<T>) ? excluded : s.at[r][v];
    }
  }

  // Where weights multiply, the caller does so; a column of weight 0 is out either way.
  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void add_log_weights(Tile<T, kRows, kVectors>& s, int64_t j) const {
    const Vec<T> excluded = broadcast(-std::numeric_limits<T>::infinity());
    for (int r = 0; r < kRows; r++) {
      const T weight = side.log_weight[j + r];
      const bool removed = weight == (weights_add ? -std::numeric_limits<T>::infinity() : T(0));
      for (int v = 0; v < kVectors; v++)
        s.at[r][v] = removed ? excluded : (weights_add ? s.at[r][v] + weight : s.at[r][v]);
    }
  }
};

template <class T>
struct BlockScores {
  int64_t dim;
  const Candidates<T>& candidates;
  const TransposedQueries<T>& transposed;
  TileExclusions<T> exclusions;

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) Tile<T, kRows, kVectors> tile(int64_t j, int64_t first_vector) const {
    auto s = Tile<T, kRows, kVectors>::zero();
    const int64_t lane = first_vector * kLanes<T>;
    const T* y = candidates.data + j * candidates.pitch;
    const T* x = transposed.data + lane;
    for (int64_t k = 0; k < dim; k += kChunk, y += candidates.chunk, x += kChunk * kQueryBlock)
      s.multiply_add(y, candidates.pitch, 1, x, kQueryBlock, smaller(kChunk, dim - k));
    exclusions.apply(s, j, lane);
    return s;
  }
};

// Visits candidates [first, last) x the block's queries tile by tile. A panel of queries stays in the nearest cache
// while kCandidateBlock candidates pass; `after_block(j)` runs when all queries have seen the candidates before j.
template <class T, class Visitor, class AfterBlock>
MI_INLINE void for_score_tiles(const QueryBlock<T>& queries, int64_t first, int64_t last, Visitor&& visit,
                               AfterBlock&& after_block) {
  for (int64_t j = first; j < last; j += kCandidateBlock) {
    const int64_t count = smaller(kCandidateBlock, last - j);
    for_vector_tiles(queries.vectors, [&](auto vectors, int64_t vector) {
      for_row_tiles(count, [&](auto rows, int64_t row) { visit(rows, vectors, j + row, vector); });
    });
    after_block(j + count);
  }
}

}  // namespace MI_ISA
}  // namespace mi
