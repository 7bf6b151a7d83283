// Three log-sum-exps of two query sets in one walk over the candidates, and their gradients: with the weights G of
// importance-tiles-inl.h,
//   dx' = scale' G' y,   dx'' = scale'' G'' y,   dy = scale' G'^T x' + scale'' G''^T x''.
// A block of queries is summed, then weighted; between the two its exponentials are kept where they fit, 12nmd flops,
// or else computed again.
#pragma once
#include <memory>

#include "../core/importance.h"
#include "importance-tiles-inl.h"

namespace mi {
namespace MI_ISA {

template <class T>
struct ImportanceWalk {
  struct Side : BlockProducts<T> {  // c = 1: the weights are G
    TransposedQueries<T> transposed;
    T* weights = nullptr;  // G [GradientProducts::kGroup][kQueryBlock], where no exponentials are kept
    GradientProducts<T> gradient;
  };
  struct Slot {
    RowSums<T> sums[3];
    ImportanceFactors<T> factors;
    T* kept[3] = {};  // E', E'', E* [candidates][kQueryBlock]

    // By log-sum-exps of row b of the block and what the loss gains with them.
    void set_factors(int64_t b, const double* lse, const double* gradient, bool weights_detached) {
      Normalizer<T> n[3];
      for (int k = 0; k < 3; k++)
        n[k] =
            kept[k] ? kept_normalizer(sums[k].reference[b], lse[k], gradient[k]) : normalizer<T>(lse[k], gradient[k]);
      factors.set(b, n, weights_detached);
    }
    // E = 2^(s - reference) are there already.
    static Normalizer<T> kept_normalizer(T reference, double lse, double gradient) {
      const bool none = gradient == 0 || lse == -kInfinity;
      return {reference, static_cast<T>(none ? 0 : gradient * std::exp2(reference - lse * kLog2E))};
    }
  };
  // What a row has to say to the slots of its group: its log-sum-exps, and the gradients of the loss by them.
  struct Row {
    double lse[3], gradient[3];
  };

  const DotProblem* p[2];
  const ImportanceGradients* g;  // null: statistics alone
  bool keep;
  bool weights_detached = true;
  int64_t n = p[0]->n(), m = p[0]->m(), dim = p[0]->dim, width = padded<T>(dim);
  BlockGrid<T> grid{*p[0], kRowsHigh};
  Candidates<T> candidates = {};
  CandidateSide<T> labels = {}, log_weights = {};
  QueryBlock<T> unmarked = {};
  std::unique_ptr<Slot[]> slots{new Slot[grid.slots()]};
  std::unique_ptr<Side[]> sides[2]{std::unique_ptr<Side[]>{new Side[grid.slots()]},
                                   std::unique_ptr<Side[]>{new Side[grid.slots()]}};
  std::unique_ptr<CandidateSums<T>[]> candidate_sums{new CandidateSums<T>[grid.groups]};
  Row* rows = nullptr;         // [n]
  double* scale_part[2] = {};  // [n]

  void place(Arena& arena) {
    candidates.place(*p[0], arena);
    CandidateSide<T> both;
    both.place(*p[0], arena);
    labels = {nullptr, both.label}, log_weights = {both.log_weight, nullptr};
    for (int s = 0; s < grid.slots(); s++) {
      for (RowSums<T>& sums : slots[s].sums) sums.place(arena);
      if (keep)
        for (T*& kept : slots[s].kept) kept = arena.take<T>(grid.candidates(s).size() * kQueryBlock);
      for (int h = 0; h < 2; h++) place(*p[h], grid.candidates(s).size(), sides[h][s], arena);
      if (g) slots[s].factors.place(arena);
    }
    if (g == nullptr) return;
    for (int group = 0; group < grid.groups; group++)
      candidate_sums[group].place(*p[0], {nullptr, g->candidates}, group, width, arena);
    rows = arena.take<Row>(n);
    for (double*& part : scale_part) part = arena.take<double>(n);
  }

  void place(const DotProblem& problem, int64_t candidate_count, Side& side, Arena& arena) const {
    side.place(problem, arena);
    side.transposed.place(problem, candidate_count, arena);
    if (g == nullptr) return;
    if (!keep) side.weights = arena.take<T>(GradientProducts<T>::kGroup * kQueryBlock);
    side.gradient.place(problem, g->candidates, candidate_count, arena);
  }

  void prepare(int s) {
    const Range share = part_of(m, s, grid.slots(), kCandidateBlock), own = grid.candidates(s);
    candidates.fill(*p[0], share.first, share.last);
    labels.fill(*p[0], share.first, share.last, false);
    log_weights.fill(*p[0], share.first, share.last, false);
    for (int h = 0; h < 2; h++) {
      sides[h][s].queries.clear_marks(*p[h]);
      for (int64_t b = 0; b < kQueryBlock; b++) sides[h][s].coefficient[b] = static_cast<T>(p[h]->scale);
    }
    if (g && g->candidates)
      std::memset(candidate_sums[grid.group(s)].sums + own.first * width, 0, own.size() * width * sizeof(T));
  }

  // finish(i, row): of row i, after its sums, if these are asked for, and before its gradients, which take rows[i].
  template <class Finish>
  void walk(bool with_sums, Finish&& finish) {
    const auto load_and_sum = [&](int s, int64_t block) {
      load(s, block);
      if (with_sums) sum(s);
    };
    const auto finish_rows = [&](int s, int64_t block) {
      const Range own = grid.own_queries(s, block);
      for (int64_t i = own.first; i < own.last; i++) finish(i, with_sums ? row_of(s, i) : ImportanceRow{});
    };
    if (g == nullptr) return grid.for_blocks(load_and_sum, finish_rows);
    grid.for_blocks(
        load_and_sum, finish_rows, [&](int s, int64_t) { add_gradients(s); },
        [&](int s, int64_t block) { write_rows(s, block); });
  }

  void load(int s, int64_t block) {
    const Range range = grid.queries(s, block);
    for (int h = 0; h < 2; h++) {
      sides[h][s].queries.load(*p[h], range.first, range.size());
      sides[h][s].transposed.fill(*p[h], sides[h][s].queries);
    }
  }

  ScorePairs<T> scores_of(int s) const {
    const auto of = [&](const Side& side) {
      return BlockScores<T>{dim, candidates, side.transposed, {labels, side.queries}};
    };
    return {{of(sides[0][s]), of(sides[1][s])}, {log_weights, unmarked}};
  }

  void sum(int s) const {
    const Slot& slot = slots[s];
    const ScorePairs<T> scores = scores_of(s);
    const Range columns = grid.candidates(s);
    for (const RowSums<T>& sums : slot.sums) sums.clear();
    for_score_tiles(
        scores, columns.first, columns.last,
        [&](auto tile_rows, auto vectors, int64_t j, int64_t vector) {
          const auto tile = keep ? importance_sum_tile<true, T, tile_rows(), vectors()>
                                 : importance_sum_tile<false, T, tile_rows(), vectors()>;
          tile(scores, slot.sums, slot.kept, j, j - columns.first, vector);
        },
        [&](int64_t) {
          for (const RowSums<T>& sums : slot.sums) sums.fold();
        });
  }

  // Of row i, by the sums of all slots of the group.
  ImportanceRow row_of(int s, int64_t i) const {
    const int first = grid.first_of_group(s);
    const int64_t b = i - sides[0][s].queries.first;
    ImportanceRow row = {};
    LogSumExp2 sums[3];
    for (int member = first; member < first + grid.parts; member++) {
      for (int k = 0; k < 3; k++) sums[k] = merge(sums[k], slots[member].sums[k].at(b));
      for (int h = 0; h < 2; h++) row.positive[h] += sides[h][member].queries.positive[b] * kLn2;
    }
    for (int k = 0; k < 3; k++) row.negative_lse[k] = log2_value(sums[k]) * kLn2;
    return row;
  }

  void add_gradients(int s) {
    Slot& slot = slots[s];
    const ScorePairs<T> scores = scores_of(s);
    const QueryBlock<T>& queries = sides[0][s].queries;
    slot.factors.clear();
    for (int64_t b = 0; b < queries.rows; b++) {
      const Row& row = rows[queries.first + b];
      slot.set_factors(b, row.lse, row.gradient, weights_detached);
    }
    for (int h = 0; h < 2; h++) {
      const Side& side = sides[h][s];
      if (g->candidates && slot.factors.flows[h]) side.gradient.weigh(side.queries, side.coefficient);
      std::memset(side.products, 0, side.queries.rows * width * sizeof(T));
    }
    const Range columns = grid.candidates(s);
    for (int64_t first = columns.first; first < columns.last; first += GradientProducts<T>::kGroup)
      add_products(s, scores, first, smaller(GradientProducts<T>::kGroup, columns.last - first));
  }

  void add_products(int s, const ScorePairs<T>& scores, int64_t first, int64_t count) {
    const Slot& slot = slots[s];
    const int64_t kept_row = first - grid.candidates(s).first;
    T* weights[2];
    for (int h = 0; h < 2; h++) weights[h] = keep ? slot.kept[h] + kept_row * kQueryBlock : sides[h][s].weights;
    if (keep)
      weigh_exponentials(slot.factors, sides[0][s].queries.vectors, count, weights[0], weights[1],
                         slot.kept[2] + kept_row * kQueryBlock);
    else
      for_score_tiles(
          scores, first, first + count,
          [&](auto tile_rows, auto vectors, int64_t j, int64_t vector) {
            const int64_t row = (j - first) * kQueryBlock;
            importance_weight_tile<T, tile_rows(), vectors()>(scores, slot.factors, j, vector, weights[0] + row,
                                                              weights[1] + row);
          },
          [](int64_t) {});
    for (int h = 0; h < 2; h++) {
      const Side& side = sides[h][s];
      if (!slot.factors.flows[h]) continue;
      side.gradient.add(weights[h], false, candidates, {first, first + count}, side.queries, side.products,
                        g->candidates ? candidate_sums[grid.group(s)].sums + first * width : nullptr);
    }
  }

  void write_rows(int s, int64_t block) {
    const Range own = grid.own_queries(s, block);
    for (int h = 0; h < 2; h++)
      for (int64_t i = own.first; i < own.last; i++)
        scale_part[h][i] =
            write_query_gradient<T>(*p[h], &sides[h][grid.first_of_group(s)], grid.parts, i, g->queries[h]) /
            p[h]->scale;
  }

  void finish(int s, const double* const* positive_gradient) {
    const Range columns = part_of(m, s, grid.slots(), kCandidateBlock), own = part_of(n, s, grid.slots(), kLanes<T>);
    if (g->candidates)
      join_candidate_sums(candidate_sums.get(), grid.groups, dim, width, columns, static_cast<T*>(g->candidates));
    for (int h = 0; h < 2; h++)
      add_positive_gradients<T>(*p[h], positive_gradient[h], {g->queries[h], g->candidates}, own, columns,
                                sides[h][s].products);
  }
};

}  // namespace MI_ISA
}  // namespace mi
