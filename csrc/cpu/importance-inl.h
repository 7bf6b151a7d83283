// Three log-sum-exps of two query sets in one walk over the candidates, and their gradients:
//   G'_ij = g'_i e^{s'_ij + v_j - a'_i} + g*_i e^{s'_ij + s''_ij + v_j - a*_i},   G'' alike,
//   dx' = scale' G' y,   dx'' = scale'' G'' y,   dy = scale' G'^T x' + scale'' G''^T x''.
// A block of queries is summed, then weighted; between the two its exponentials are kept where they fit, 12nmd flops,
// or else computed again.
#pragma once
#include <memory>

#include "../core/importance.h"
#include "gradient-inl.h"

namespace mi {
namespace MI_ISA {

// Both score tiles before their log-weights, so that v_j enters the joint score once.
template <class T>
struct ScorePairs {
  const BlockScores<T> side[2];
  const TileExclusions<T> log_weights;
};

template <class T, int kRows, int kVectors>
MI_INLINE Tile<T, kRows, kVectors> joint_tile(const Tile<T, kRows, kVectors>& a, const Tile<T, kRows, kVectors>& b) {
  Tile<T, kRows, kVectors> sum;
  for (int r = 0; r < kRows; r++)
    for (int v = 0; v < kVectors; v++) sum.at[r][v] = a.at[r][v] + b.at[r][v];
  return sum;
}

// kept: E', E'' and E* [m][kQueryBlock] of the block, for kKeep.
template <bool kKeep, class T, int kRows, int kVectors>
MI_NOINLINE void importance_sum_tile(const ScorePairs<T>& scores, const RowSums<T>* sums, T* const* kept, int64_t j,
                                     int64_t vector) {
  auto first = scores.side[0].template tile<kRows, kVectors>(j, vector);
  auto second = scores.side[1].template tile<kRows, kVectors>(j, vector);
  auto joint = joint_tile(first, second);
  const int64_t lane = vector * kLanes<T>;
  int k = 0;
  for (auto* s : {&first, &second, &joint}) {
    scores.log_weights.apply(*s, j, lane);
    if constexpr (kKeep)
      exponentiate_rows<true>(*s, sums[k], Referenced<T>{kept[k], j}, lane, kept[k] + j * kQueryBlock);
    else
      exponentiate_rows<false>(*s, sums[k], Referenced<T>{}, lane, static_cast<T*>(nullptr));
    k++;
  }
}

// What makes the weights of a block's scores, by query.
template <class T>
struct ImportanceFactors {
  T* reference[3] = {};  // of a', a'', a*
  T* own[2] = {};        // g', g''
  T* joint[2] = {};      // g* for s' and for s'', 0 where the weights are detached
  bool flows[2] = {};    // some weight is not 0

  void place(Arena& arena) {
    for (T*& t : reference) t = arena.take<T>(kQueryBlock);
    for (T*& t : own) t = arena.take<T>(kQueryBlock);
    for (T*& t : joint) t = arena.take<T>(kQueryBlock);
  }
  void clear() {
    for (int64_t b = 0; b < kQueryBlock; b++) {
      for (T* t : reference) t[b] = std::numeric_limits<T>::max();
      own[0][b] = own[1][b] = joint[0][b] = joint[1][b] = 0;
    }
    flows[0] = flows[1] = false;
  }
  void set(int64_t b, const Normalizer<T> (&n)[3], bool weights_detached) {
    for (int k = 0; k < 3; k++) reference[k][b] = n[k].reference;
    own[0][b] = n[0].factor, own[1][b] = n[1].factor;
    joint[0][b] = n[2].factor, joint[1][b] = weights_detached ? T(0) : n[2].factor;
    for (int h = 0; h < 2; h++) flows[h] |= own[h][b] != 0 || joint[h][b] != 0;
  }
};

// G' and G'' of a tile.
template <class T, int kRows, int kVectors>
MI_NOINLINE void importance_weight_tile(const ScorePairs<T>& scores, const ImportanceFactors<T>& f, int64_t j,
                                        int64_t vector, T* first_out, T* second_out) {
  auto first = scores.side[0].template tile<kRows, kVectors>(j, vector);
  auto second = scores.side[1].template tile<kRows, kVectors>(j, vector);
  auto joint = joint_tile(first, second);
  const int64_t lane = vector * kLanes<T>;
  for (auto* s : {&first, &second, &joint}) scores.log_weights.apply(*s, j, lane);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; v++) {
    const int64_t at = lane + v * kLanes<T>;
    const Vec<T> r1 = load(f.reference[0] + at), r2 = load(f.reference[1] + at), r3 = load(f.reference[2] + at);
    const Vec<T> g1 = load(f.own[0] + at), g2 = load(f.own[1] + at);
    const Vec<T> joint1 = load(f.joint[0] + at), joint2 = load(f.joint[1] + at);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++) {
      const Vec<T> e = exp2<T>(joint.at[r][v] - r3);
      store(first_out + r * kQueryBlock + at, g1 * exp2<T>(first.at[r][v] - r1) + joint1 * e);
      store(second_out + r * kQueryBlock + at, g2 * exp2<T>(second.at[r][v] - r2) + joint2 * e);
    }
  }
}

// The same from E', E'' and E*, in the place of the first two.
template <class T>
MI_NOINLINE void weigh_exponentials(const ImportanceFactors<T>& f, int64_t vectors, int64_t candidates, T* first,
                                    T* second, const T* joint) {
  for (int64_t lane = 0; lane < vectors * kLanes<T>; lane += kLanes<T>) {
    const Vec<T> g1 = load(f.own[0] + lane), g2 = load(f.own[1] + lane);
    const Vec<T> joint1 = load(f.joint[0] + lane), joint2 = load(f.joint[1] + lane);
    for (int64_t at = lane; at < candidates * kQueryBlock; at += kQueryBlock) {
      const Vec<T> e = load(joint + at);
      store(first + at, g1 * load(first + at) + joint1 * e);
      store(second + at, g2 * load(second + at) + joint2 * e);
    }
  }
}

template <class T>
struct ImportanceWalk {
  struct Side : BlockProducts<T> {  // c = 1: the weights are G
    TransposedQueries<T> transposed;
    T* weights = nullptr;   // G [kProductGroup][kQueryBlock], where no exponentials are kept
    T* weighted = nullptr;  // scale x, by chunks
  };
  struct Slot {
    Side side[2];
    RowSums<T> sums[3];
    ImportanceFactors<T> factors;
    T* kept[3] = {};  // E', E'', E* [m][kQueryBlock]

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

  const DotProblem* p[2];
  const ImportanceGradients* g;  // null: statistics alone
  bool keep;
  int64_t n = p[0]->n(), m = p[0]->m(), dim = p[0]->dim, width = padded<T>(dim);
  int slot_count = slots_for(p[0]->threads, round_up(n, kLanes<T>) / kLanes<T>);
  Candidates<T> candidates = {};
  CandidateSide<T> side = {}, weights_side = {};  // labels; log-weights
  std::unique_ptr<Slot[]> slots{new Slot[slot_count]};
  std::unique_ptr<CandidateSums<T>[]> candidate_sums{new CandidateSums<T>[slot_count]};
  double* scale_part[2] = {};  // [n]

  void place(Arena& arena) {
    candidates.place(*p[0], arena);
    side.place(*p[0], arena);
    for (int s = 0; s < slot_count; s++) {
      Slot& slot = slots[s];
      for (RowSums<T>& sums : slot.sums) sums.place(arena);
      if (keep)
        for (T*& kept : slot.kept) kept = arena.take<T>(m * kQueryBlock);
      for (int h = 0; h < 2; h++) {
        slot.side[h].place(*p[h], arena);
        slot.side[h].transposed.place(*p[h], arena);
        if (g) place_products(slot.side[h], arena);
      }
      if (g == nullptr) continue;
      slot.factors.place(arena);
      candidate_sums[s].place(*p[0], {nullptr, g->candidates}, s, width, arena);
    }
    if (g)
      for (double*& part : scale_part) part = arena.take<double>(n);
  }

  void place_products(Side& side, Arena& arena) const {
    if (!keep) side.weights = arena.take<T>(kProductGroup * kQueryBlock);
    side.weighted = arena.take<T>(kQueryBlock * round_up(width, kChunk));
  }

  void prepare(int s) {
    const Range columns = part_of(m, s, slot_count, kCandidateBlock);
    candidates.fill(*p[0], columns.first, columns.last);
    side.fill(*p[0], columns.first, columns.last, false);
    for (int h = 0; h < 2; h++) slots[s].side[h].queries.clear_marks(*p[h]);
    if (g == nullptr) return;
    for (int h = 0; h < 2; h++)
      for (int64_t b = 0; b < kQueryBlock; b++) slots[s].side[h].coefficient[b] = static_cast<T>(p[h]->scale);
    if (g->candidates) std::memset(candidate_sums[s].sums, 0, m * width * sizeof(T));
  }

  // rows(slot, b, i): of row i, number b of the block, after its sums and before its gradients.
  template <class Rows>
  void walk(int s, bool with_sums, Rows&& rows) {
    Slot& slot = slots[s];
    const Range range = part_of(n, s, slot_count, kLanes<T>);
    const CandidateSide<T> labels{nullptr, side.label}, log_weights{side.log_weight, nullptr};
    const QueryBlock<T> unmarked = {};
    for (int64_t first = range.first; first < range.last; first += kQueryBlock) {
      for (int h = 0; h < 2; h++) {
        slot.side[h].queries.load(*p[h], first, smaller(kQueryBlock, range.last - first));
        slot.side[h].transposed.fill(*p[h], slot.side[h].queries);
      }
      auto scores_of = [&](int h) {
        return BlockScores<T>{dim, candidates, slot.side[h].transposed, {labels, slot.side[h].queries}};
      };
      const ScorePairs<T> scores{{scores_of(0), scores_of(1)}, {log_weights, unmarked}};
      if (with_sums) sum(slot, scores);
      if (g) slot.factors.clear();
      for (int64_t b = 0; b < slot.side[0].queries.rows; b++) rows(slot, b, first + b);
      if (g) add_gradients(s, scores);
    }
  }

  void sum(const Slot& slot, const ScorePairs<T>& scores) const {
    for (const RowSums<T>& sums : slot.sums) sums.clear();
    for_score_tiles(
        slot.side[0].queries, 0, m,
        [&](auto rows, auto vectors, int64_t j, int64_t vector) {
          const auto tile =
              keep ? importance_sum_tile<true, T, rows(), vectors()> : importance_sum_tile<false, T, rows(), vectors()>;
          tile(scores, slot.sums, slot.kept, j, vector);
        },
        [&](int64_t) {
          for (const RowSums<T>& sums : slot.sums) sums.fold();
        });
  }

  void add_gradients(int s, const ScorePairs<T>& scores) {
    Slot& slot = slots[s];
    for (int h = 0; h < 2; h++) {
      const Side& side = slot.side[h];
      if (g->candidates && slot.factors.flows[h]) weigh_queries(side.queries, side.coefficient, side.weighted);
      std::memset(side.products, 0, side.queries.rows * width * sizeof(T));
    }
    for (int64_t group = 0; group < m; group += kProductGroup) {
      const int64_t count = smaller(kProductGroup, m - group);
      T* weights[2];
      for (int h = 0; h < 2; h++) weights[h] = keep ? slot.kept[h] + group * kQueryBlock : slot.side[h].weights;
      weigh(slot, scores, group, count, weights);
      for (int h = 0; h < 2; h++) {
        const Side& side = slot.side[h];
        if (!slot.factors.flows[h]) continue;
        add_query_products(weights[h], candidates, group, count, side.queries, side.products);
        if (g->candidates)
          add_candidate_products(weights[h], side.weighted, count, side.queries, candidate_sums[s].sums + group * width,
                                 width);
      }
    }
    for (int h = 0; h < 2; h++)
      for (int64_t b = 0; b < slot.side[h].queries.rows; b++) {
        const int64_t i = slot.side[h].queries.first + b;
        scale_part[h][i] = write_query_gradient<T>(*p[h], &slot.side[h], 1, i, g->queries[h]) / p[h]->scale;
      }
  }

  // G' and G'' of candidates first .. first + count.
  void weigh(const Slot& slot, const ScorePairs<T>& scores, int64_t first, int64_t count, T* const* weights) const {
    const QueryBlock<T>& queries = slot.side[0].queries;
    if (keep)
      return weigh_exponentials(slot.factors, queries.vectors, count, weights[0], weights[1],
                                slot.kept[2] + first * kQueryBlock);
    for_score_tiles(
        queries, first, first + count,
        [&](auto rows, auto vectors, int64_t j, int64_t vector) {
          const int64_t row = (j - first) * kQueryBlock;
          importance_weight_tile<T, rows(), vectors()>(scores, slot.factors, j, vector, weights[0] + row,
                                                       weights[1] + row);
        },
        [](int64_t) {});
  }

  void finish(int s, const double* const* positive_gradient) {
    const Range columns = part_of(m, s, slot_count, kCandidateBlock), rows = part_of(n, s, slot_count, kLanes<T>);
    if (g->candidates)
      join_candidate_sums(candidate_sums.get(), slot_count, dim, width, columns, static_cast<T*>(g->candidates));
    for (int h = 0; h < 2; h++)
      add_positive_gradients<T>(*p[h], positive_gradient[h], {g->queries[h], g->candidates}, rows, columns,
                                slots[s].side[h].products);
  }
};

}  // namespace MI_ISA
}  // namespace mi
