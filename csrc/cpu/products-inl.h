// The two products of a gradient, from weights E [candidates][kQueryBlock]:
//   for queries     sum_j E_ji y_j,   for candidates  sum_i E_ji (c_i x_i).
#pragma once
#include "exponential-inl.h"
#include "parallel.h"

namespace mi {
namespace MI_ISA {

// Of a slot and its block of queries.
template <class T>
struct GradientProducts {
  static constexpr int64_t kGroup = kCandidateBlock;  // candidates whose weights are kept for one call of add
  static constexpr int64_t kDepth = kGroup / 2;  // candidates whose features stay in the nearest cache, at any pitch
  T* weighted = nullptr;                         // c x, in panels: [width / kPanel][kQueryBlock][kPanel]

  void place(const DotProblem& p, bool for_candidates, int64_t, Arena& arena) {
    if (for_candidates) weighted = arena.take<T>(kQueryBlock * round_up(padded<T>(p.dim), kPanel<T>));
  }

  void weigh(const QueryBlock<T>& queries, const T* coefficient) const {
    for (int64_t k = 0; k < queries.width; k += kPanel<T>)
      for (int64_t i = 0; i < queries.rows; i++)
        for (int64_t c = 0; c < smaller(kPanel<T>, queries.width - k); c++)
          weighted[k * kQueryBlock + i * kPanel<T> + c] = coefficient[i] * queries.natural[i * queries.width + k + c];
  }

  // Over the candidates of `columns`, whose first weights and sums these are, each where there is one:
  //   query_sums [rows][width] += E^T y,   candidate_sums [columns][width] += E (c x).
  // near_one: the largest weight of each query is not far from 1.
  inline __attribute__((always_inline)) void add(const T* weights, bool /*near_one*/, const Candidates<T>& y,
                                                 Range columns, const QueryBlock<T>& queries, T* query_sums,
                                                 T* candidate_sums) const {
    for (int64_t j = 0; j < columns.size(); j += kGroup) {
      const int64_t count = smaller(kGroup, columns.size() - j);
      const T* group = weights + j * kQueryBlock;
      if (candidate_sums) add_to_candidates(group, count, queries, candidate_sums + j * queries.width, queries.width);
      if (query_sums)
        for (int64_t k = 0; k < count; k += kDepth)
          add_to_queries(group + k * kQueryBlock, y, columns.first + j + k, smaller(kDepth, count - k), queries,
                         query_sums);
    }
  }

 private:
  inline __attribute__((always_inline)) void add_to_queries(const T* weights, const Candidates<T>& y, int64_t first,
                                                            int64_t count, const QueryBlock<T>& queries,
                                                            T* sums) const {
    const int64_t width = queries.width;
    for (int64_t c = 0; c * kChunk < width; c++) {
      const T* chunk = y.data + c * y.chunk + first * y.pitch;
      for_vector_tiles(smaller(kChunk, width - c * kChunk) / kLanes<T>, [&](auto vectors, int64_t vector) {
        for_row_tiles(queries.rows, [&](auto rows, int64_t i) {
          multiply_add_tile<T, rows(), vectors()>(weights + i, 1, kQueryBlock, chunk + vector * kLanes<T>, y.pitch,
                                                  count, sums + i * width + c * kChunk + vector * kLanes<T>, width);
        });
      });
    }
  }

  inline __attribute__((always_inline)) void add_to_candidates(const T* weights, int64_t count,
                                                               const QueryBlock<T>& queries, T* sums,
                                                               int64_t pitch) const {
    for_vector_tiles(queries.width / kLanes<T>, [&](auto vectors, int64_t vector) {
      const int64_t column = vector * kLanes<T>, in_panel = column % kPanel<T>;
      const T* panel = weighted + (column - in_panel) * kQueryBlock + in_panel;
      for_row_tiles(count, [&](auto rows, int64_t j) {
        multiply_add_tile<T, rows(), vectors()>(weights + j * kQueryBlock, kQueryBlock, 1, panel, kPanel<T>,
                                                queries.rows, sums + j * pitch + column, pitch);
      });
    });
  }
};

// The arithmetic of a fused walk in the compute type itself; PairedProducts has the same members for 16-bit pairs.
template <class T>
struct PlainProducts {
  using Scalar = T;
  struct Slot {
    TransposedQueries<T> transposed;
    T* exponentials = nullptr;  // E [candidates][kQueryBlock]
    GradientProducts<T> gradient;
  };
  static constexpr int64_t kUnit = kRowsHigh;  // ranges of candidates begin at a tile

  Candidates<T> candidates;

  static int64_t bytes_kept(int64_t m) { return m * kQueryBlock * static_cast<int64_t>(sizeof(T)); }

  void place(const DotProblem& p, Arena& arena) { candidates.place(p, arena); }
  void place_slot(const DotProblem& p, int64_t candidate_count, Slot& slot, Arena& arena) const {
    slot.transposed.place(p, candidate_count, arena);
    slot.exponentials = arena.take<T>(candidate_count * kQueryBlock);
    slot.gradient.place(p, true, candidate_count, arena);
  }
  void fill(const DotProblem& p, Range columns) const { candidates.fill(p, columns.first, columns.last); }

  // E of the block and `columns`, and their sums.
  void exponentiate(const DotProblem& p, const CandidateSide<T>& side, const QueryBlock<T>& queries, Range columns,
                    Slot& slot, const RowSums<T>& sums) const {
    slot.transposed.fill(p, queries);
    const BlockScores<T> scores{p.dim, candidates, slot.transposed, {side, queries}};
    for_score_tiles(
        scores, columns.first, columns.last,
        [&](auto rows, auto vectors, int64_t j, int64_t vector) {
          const Referenced<T> done{slot.exponentials, j - columns.first};
          lazy_exponential_tile<true, T, rows(), vectors()>(scores, sums, done, j, vector,
                                                            slot.exponentials + done.candidates * kQueryBlock);
        },
        [&](int64_t) { sums.fold(); });
  }

  // Over `columns`: products [rows][width] = E^T y;  candidate_sums [m][width] += E (c x).
  void multiply(const DotProblem&, const QueryBlock<T>& queries, Range columns, const Slot& slot, const T* coefficient,
                T* products, T* candidate_sums) const {
    slot.gradient.weigh(queries, coefficient);
    std::memset(products, 0, queries.rows * queries.width * sizeof(T));
    slot.gradient.add(slot.exponentials, true, candidates, columns, queries, products,
                      candidate_sums + columns.first * queries.width);
  }
};

}  // namespace MI_ISA
}  // namespace mi
