// Gradients when the weight of each score is known beforehand: E_ji is computed a group of candidates at a time and
// used at once.
//   rows:     w_ij = ga_i e^{s_ij - a_i}                        any upstream gradient of negative_lse
//   columns:  w_ij = ga_i e^{s_ij - a_i} + gc_j e^{s_ij - c_j}  and of column_negative_lse
//   softplus: w_ij = u_j sigmoid(s_ij), with the value sum_ij u_j softplus(s_ij)
#pragma once
#include <memory>

#include "finish-inl.h"
#include "logistic-inl.h"

namespace mi {
namespace MI_ISA {

// e^{s - a} as 2^(s - reference), the part of a that `reference` cannot hold gone into the factor. a = -inf: nothing to
// weigh.
template <class T>
struct Normalizer {
  T reference;
  T factor;
};
template <class T>
MI_INLINE Normalizer<T> normalizer(double lse, double gradient) {
  const double lse2 = lse * kLog2E;
  if (lse == -kInfinity) return {std::numeric_limits<T>::max(), T(0)};
  const T reference = static_cast<T>(lse2);
  const double rest = lse2 - static_cast<double>(reference);
  return {reference, static_cast<T>(gradient == 0 ? 0 : gradient * std::exp2(rest == rest ? -rest : 0))};
}

template <class T>
struct RowWeights {
  T* reference;  // [kQueryBlock]; ga_i is folded into the coefficients of the queries

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void apply(const Tile<T, kRows, kVectors>& s, int64_t, int64_t lane,
                                                   T* out) const {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      const Vec<T> r = load(reference + lane + v * kLanes<T>);
      Vec<T> e[kRows];
#pragma GCC unroll 6
      for (int row = 0; row < kRows; row++) e[row] = s.at[row][v] - r;
      exp2_all<T>(e);
#pragma GCC unroll 6
      for (int row = 0; row < kRows; row++) store(out + row * kQueryBlock + v * kLanes<T>, e[row]);
    }
  }
};

template <class T>
struct RowColumnWeights {
  T *row_reference, *row_factor;              // [kQueryBlock]
  const T *column_reference, *column_factor;  // [m]

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void apply(const Tile<T, kRows, kVectors>& s, int64_t j, int64_t lane,
                                                   T* out) const {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      const Vec<T> r = load(row_reference + lane + v * kLanes<T>), g = load(row_factor + lane + v * kLanes<T>);
      Vec<T> by_row[kRows], by_column[kRows];
#pragma GCC unroll 6
      for (int row = 0; row < kRows; row++) {
        by_row[row] = s.at[row][v] - r;
        by_column[row] = s.at[row][v] - column_reference[j + row];
      }
      exp2_all<T>(by_row);
      exp2_all<T>(by_column);
#pragma GCC unroll 6
      for (int row = 0; row < kRows; row++)
        store(out + row * kQueryBlock + v * kLanes<T>, g * by_row[row] + column_factor[j + row] * by_column[row]);
    }
  }
};

// u sigmoid(s) of a tile, u = times(row, vector), goes to place(row, vector); value [lanes] += u softplus(s),
// weight [lanes] += u sigmoid(s).
template <class T, int kRows, int kVectors, class Times, class Place>
MI_INLINE void weigh_sigmoids(const Tile<T, kRows, kVectors>& s, Times&& times, Place&& place, T* value, T* weight) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; v++) {
    const Vec<T> zero = {};
    Vec<T> value_sum = {}, weight_sum = {}, e[kRows];
#pragma GCC unroll 6
    for (int row = 0; row < kRows; row++) e[row] = s.at[row][v] > zero ? -s.at[row][v] : s.at[row][v];
    exp2_all<T>(e);
#pragma GCC unroll 6
    for (int row = 0; row < kRows; row++) {
      const Logistic<Vec<T>> of = logistic<T>(s.at[row][v], T(kLn2), e[row]);
      const Vec<T> u = times(row, v), sigmoid = u * of.sigmoid;
      value_sum += u * of.softplus;
      weight_sum += sigmoid;
      store(place(row, v), sigmoid);
    }
    const int64_t at = v * kLanes<T>;
    store(value + at, load(value + at) + value_sum);
    store(weight + at, load(weight + at) + weight_sum);
  }
}

template <class T>
struct SoftplusWeights {
  T* value;         // [kQueryBlock] running sum of u softplus(s)
  T* weight;        // [kQueryBlock] running sum of the weights, for the gradient of the bias
  const T* factor;  // [m] u_j, or null

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) void apply(const Tile<T, kRows, kVectors>& s, int64_t j, int64_t lane,
                                                   T* out) const {
    weigh_sigmoids(
        s, [&](int row, int) { return broadcast(factor ? factor[j + row] : T(1)); },
        [&](int row, int v) { return out + row * kQueryBlock + v * kLanes<T>; }, value + lane, weight + lane);
  }
};

template <class T, class Weights, int kRows, int kVectors>
MI_NOINLINE void weight_tile(const BlockScores<T>& scores, const Weights& weights, int64_t j, int64_t vector, T* out) {
  const auto s = scores.template tile<kRows, kVectors>(j, vector);
  weights.apply(s, j, vector * kLanes<T>, out + vector * kLanes<T>);
}

template <class T>
struct GradientWalk {
  struct Slot : BlockProducts<T> {
    TransposedQueries<T> transposed;
    T* weights = nullptr;  // E [GradientProducts::kGroup][kQueryBlock]
    GradientProducts<T> gradient;
    T *lane_a = nullptr, *lane_b = nullptr;  // [kQueryBlock] the weights' own state
  };

  const DotProblem& p;
  const DotGradients& g;
  const double* positive_gradient;
  bool weights_multiply;  // u_j = e^{v_j} weighs a score's term; or else v_j is added to the score
  BlockGrid<T> grid{p, kRowsHigh};
  int64_t width = padded<T>(p.dim);
  Candidates<T> candidates = {};
  CandidateSide<T> side = {};
  std::unique_ptr<Slot[]> slots{new Slot[grid.slots()]};
  std::unique_ptr<CandidateSums<T>[]> candidate_sums{new CandidateSums<T>[grid.groups]};
  double* scale_part = nullptr;  // [n]

  const Slot* group_of(int s) const { return &slots[grid.first_of_group(s)]; }

  void place(Arena& arena) {
    candidates.place(p, arena);
    side.place(p, arena);
    scale_part = arena.take<double>(p.n());
    for (int s = 0; s < grid.slots(); s++) {
      slots[s].place(p, arena);
      slots[s].transposed.place(p, grid.candidates(s).size(), arena);
      slots[s].weights = arena.take<T>(GradientProducts<T>::kGroup * kQueryBlock);
      slots[s].gradient.place(p, g.candidates, grid.candidates(s).size(), arena);
      slots[s].lane_a = arena.take<T>(kQueryBlock);
      slots[s].lane_b = arena.take<T>(kQueryBlock);
    }
    for (int group = 0; group < grid.groups; group++) candidate_sums[group].place(p, g, group, width, arena);
  }

  void prepare(int s) {
    const Range share = part_of(p.m(), s, grid.slots(), kCandidateBlock), own = grid.candidates(s);
    candidates.fill(p, share.first, share.last);
    side.fill(p, share.first, share.last, weights_multiply);
    slots[s].queries.clear_marks(p);
    if (g.candidates)
      std::memset(candidate_sums[grid.group(s)].sums + own.first * width, 0, own.size() * width * sizeof(T));
  }

  // begin(s) returns the block's weights and sets its coefficients; fold(s) may fold their sums, end(s, i) write those
  // of row i, when all slots of the group are done with its block.
  template <class Begin, class Fold, class End>
  void walk(Begin&& begin, Fold&& fold, End&& end) {
    grid.for_blocks([&](int s, int64_t block) { multiply(s, block, begin, fold); },
                    [&](int s, int64_t block) {
                      const Range own = grid.own_queries(s, block);
                      for (int64_t i = own.first; i < own.last; i++) {
                        if (g.queries)
                          scale_part[i] = write_query_gradient<T>(p, group_of(s), grid.parts, i, g.queries) / p.scale;
                        end(s, i);
                      }
                    });
  }

  template <class Begin, class Fold>
  void multiply(int s, int64_t block, Begin&& begin, Fold&& fold) {
    Slot& slot = slots[s];
    const Range rows = grid.queries(s, block), columns = grid.candidates(s);
    slot.queries.load(p, rows.first, rows.size());
    slot.transposed.fill(p, slot.queries);
    const T bias = static_cast<T>(p.bias * kLog2E);
    const BlockScores<T> scores{
        p.dim, candidates, slot.transposed, {side, slot.queries, bias, T(0), !weights_multiply}};
    const auto weights = begin(s);
    if (g.candidates) slot.gradient.weigh(slot.queries, slot.coefficient);
    std::memset(slot.products, 0, slot.queries.rows * width * sizeof(T));
    for (int64_t first = columns.first; first < columns.last; first += GradientProducts<T>::kGroup) {
      const int64_t last = smaller(first + GradientProducts<T>::kGroup, columns.last);
      for_score_tiles(
          scores, first, last,
          [&](auto tile_rows, auto vectors, int64_t j, int64_t vector) {
            weight_tile<T, std::decay_t<decltype(weights)>, tile_rows(), vectors()>(
                scores, weights, j, vector, slot.weights + (j - first) * kQueryBlock);
          },
          [&](int64_t) { fold(s); });
      slot.gradient.add(slot.weights, false, candidates, {first, last}, slot.queries,
                        g.queries ? slot.products : nullptr,
                        g.candidates ? candidate_sums[grid.group(s)].sums + first * width : nullptr);
    }
  }

  void finish(int s) {
    const Range columns = part_of(p.m(), s, grid.slots(), kCandidateBlock),
                rows = part_of(p.n(), s, grid.slots(), kLanes<T>);
    if (g.candidates)
      join_candidate_sums(candidate_sums.get(), grid.groups, p.dim, width, columns, static_cast<T*>(g.candidates));
    add_positive_gradients(p, positive_gradient, g, rows, columns, slots[s].products);
  }
};

}  // namespace MI_ISA
}  // namespace mi
