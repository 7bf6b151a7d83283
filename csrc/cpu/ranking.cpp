// What is read beside a loss, in one walk: log-sum-exps of rows, the entropy of the negatives' weights, and how many
// negatives score no less than the positive.
#include <memory>

#include "exponential-inl.h"
#include "families-inl.h"
#include "parallel.h"

namespace mi {
namespace MI_ISA {

// Of each query of a block, over the candidates so far: E = 2^(s + v - r), and what else is summed with it.
template <class T>
struct RankingSums {
  RowSums<T> weights;              // of E
  T* moment = nullptr;             // of E (s + v - r) since the last fold
  double* moment_total = nullptr;  // before that
  IntOf<T>* above = nullptr;       // negatives not below the positive
  T* threshold = nullptr;          // the positive's score; at least the lowest number, so that -inf is below

  void place(Arena& arena) {
    weights.place(arena);
    moment = arena.take<T>(kQueryBlock);
    moment_total = arena.take<double>(kQueryBlock);
    above = arena.take<IntOf<T>>(kQueryBlock);
    threshold = arena.take<T>(kQueryBlock);
  }
  void clear() const {
    weights.clear();
    for (int64_t i = 0; i < kQueryBlock; i++) moment[i] = 0, moment_total[i] = 0, above[i] = 0;
  }
  void fold() const {
    weights.fold();
    for (int64_t i = 0; i < kQueryBlock; i++) moment_total[i] += moment[i], moment[i] = 0;
  }
  // H = log2 S - (sum of E (s + v - r)) / S, S the sum of E, in log2 units.
  double entropy(int64_t i) const {
    const double sum = weights.total[i];
    return sum == 0 ? -kInfinity : std::log2(sum) - moment_total[i] / sum;
  }
};

// The reference went from `before` to a higher one: E (s - r) is measured anew, with the sum of E as it was.
template <class T>
MI_NOINLINE void move_moments(const RankingSums<T>& sums, int64_t lane, int64_t lanes, const T* before,
                              const T* sum_before, const double* total_before) {
  for (int64_t i = 0; i < lanes; i++) {
    const double rise = static_cast<double>(sums.weights.reference[lane + i]) - before[i];
    if (!(rise > 0)) continue;
    const double factor = std::exp2(-rise);
    auto moved = [&](double moment, double sum) { return sum == 0 ? 0 : factor * (moment - rise * sum); };
    sums.moment[lane + i] = static_cast<T>(moved(sums.moment[lane + i], sum_before[i]));
    sums.moment_total[lane + i] = moved(sums.moment_total[lane + i], total_before[i]);
  }
}

template <class T>
struct RankingScores {
  BlockScores<T> scores;          // without log-weights: these say how often a negative counts, not how it ranks
  TileExclusions<T> log_weights;  // added afterwards

  bool removed(int64_t j) const {
    return log_weights.side.log_weight && log_weights.side.log_weight[j] == -std::numeric_limits<T>::infinity();
  }
};

template <class T, int kRows, int kVectors>
MI_NOINLINE void ranking_tile(const RankingScores<T>& from, const RankingSums<T>& sums, int64_t j, int64_t vector,
                              T* exponentials) {
  auto s = from.scores.template tile<kRows, kVectors>(j, vector);
  const int64_t lane = vector * kLanes<T>, lanes = kVectors * kLanes<T>;
  for (int v = 0; v < kVectors; v++) {
    const Vec<T> threshold = load(sums.threshold + lane + v * kLanes<T>);
    Vec<IntOf<T>> count = load(sums.above + lane + v * kLanes<T>);
    for (int r = 0; r < kRows; r++)
      if (!from.removed(j + r)) count += IntOf<T>(1) + (s.at[r][v] < threshold);  // true is -1; NaN is not below
    store(sums.above + lane + v * kLanes<T>, count);
  }
  from.log_weights.apply(s, j, lane);
  T before[kVectors * kLanes<T>], sum_before[kVectors * kLanes<T>];
  double total_before[kVectors * kLanes<T>];
  for (int64_t i = 0; i < lanes; i++) {
    before[i] = sums.weights.reference[lane + i], sum_before[i] = sums.weights.sum[lane + i];
    total_before[i] = sums.weights.total[lane + i];
  }
  exponentiate_rows<true>(s, sums.weights, Referenced<T>{}, lane, exponentials);
  move_moments(sums, lane, lanes, before, sum_before, total_before);
  const Vec<T> lowest = broadcast(T(-4) * std::numeric_limits<T>::max_exponent);  // where E is 0: no 0 * inf
  for (int v = 0; v < kVectors; v++) {
    const int64_t at = lane + v * kLanes<T>;
    const Vec<T> reference = load(sums.weights.reference + at);
    Vec<T> moment = load(sums.moment + at);
    for (int r = 0; r < kRows; r++)
      moment += load(exponentials + r * kQueryBlock + at) * max<T>(lowest, s.at[r][v] - reference);
    store(sums.moment + at, moment);
  }
}

// The score of lane `lane` with candidate j, by the arithmetic of every other tile: equal vectors score equal.
template <class T>
MI_NOINLINE T single_score(const BlockScores<T>& scores, int64_t j, int64_t lane) {
  return scores.template tile<1, 1>(j, lane / kLanes<T>).at[0][0][lane % kLanes<T>];
}

template <class T>
struct RankingWalk {
  struct Slot {
    QueryBlock<T> queries;
    TransposedQueries<T> transposed;
    RankingSums<T> sums;
    T* exponentials = nullptr;  // [kRowsHigh][kQueryBlock]
  };

  const DotProblem& p;
  const DotProblem& positives;  // the same queries; candidates are the positives, one a query, or those of p
  const DotRanking& out;
  int slot_count = slots_for(p.threads, round_up(p.n(), kLanes<T>) / kLanes<T>);
  Candidates<T> candidates = {}, positive_candidates = {};
  CandidateSide<T> side = {};
  std::unique_ptr<Slot[]> slots{new Slot[slot_count]};

  void place(Arena& arena) {
    candidates.place(p, arena);
    if (p.exclusions.target == nullptr) positive_candidates.place(positives, arena);
    side.place(p, arena);
    for (int s = 0; s < slot_count; s++) {
      slots[s].queries.place(p, arena);
      slots[s].transposed.place(p, p.m(), arena);
      slots[s].sums.place(arena);
      slots[s].exponentials = arena.take<T>(kRowsHigh * kQueryBlock);
    }
  }

  void prepare(int s) {
    const Range columns = part_of(p.m(), s, slot_count, kCandidateBlock), rows = part_of(p.n(), s, slot_count, 1);
    candidates.fill(p, columns.first, columns.last);
    if (p.exclusions.target == nullptr) positive_candidates.fill(positives, rows.first, rows.last);
    side.fill(p, columns.first, columns.last, false);
    slots[s].queries.clear_marks(p);
  }

  void walk(int s) {
    Slot& slot = slots[s];
    const Range rows = part_of(p.n(), s, slot_count, kLanes<T>);
    const CandidateSide<T> labels{nullptr, side.label}, log_weights{side.log_weight, nullptr};
    const QueryBlock<T> unmarked = {};
    for (int64_t first = rows.first; first < rows.last; first += kQueryBlock) {
      slot.queries.load(p, first, smaller(kQueryBlock, rows.last - first));
      slot.transposed.fill(p, slot.queries);
      slot.sums.clear();
      score_positives(slot);
      const RankingScores<T> from{{p.dim, candidates, slot.transposed, {labels, slot.queries}},
                                  {log_weights, unmarked}};
      for_score_tiles(
          from.scores, 0, p.m(),
          [&](auto tile_rows, auto vectors, int64_t j, int64_t vector) {
            ranking_tile<T, tile_rows(), vectors()>(from, slot.sums, j, vector, slot.exponentials);
          },
          [&](int64_t) { slot.sums.fold(); });
      write(slot);
    }
  }

  void score_positives(Slot& slot) {
    const bool has_target = p.exclusions.target;
    const CandidateSide<T> nothing = {};
    const QueryBlock<T> unmarked = {};
    const BlockScores<T> scores{
        p.dim, has_target ? candidates : positive_candidates, slot.transposed, {nothing, unmarked}};
    for (int64_t b = 0; b < kQueryBlock; b++) slot.sums.threshold[b] = 0;
    for (int64_t b = 0; b < slot.queries.rows; b++) {
      const int64_t i = slot.queries.first + b;
      const T score = single_score(scores, has_target ? p.exclusions.target[i] : i, b);
      slot.sums.threshold[b] = score < kLowest<T> ? kLowest<T> : score;
      if (has_target) out.positive[i] = score * kLn2;
    }
  }

  void write(const Slot& slot) {
    for (int64_t b = 0; b < slot.queries.rows; b++) {
      const int64_t i = slot.queries.first + b;
      out.negative_lse[i] = log2_value(slot.sums.weights.at(b)) * kLn2;
      out.entropy[i] = slot.sums.entropy(b) * kLn2;
      out.rank[i] = slot.sums.above[b];
    }
  }
};

template <class T>
void dot_ranking(const DotProblem& p, const DotProblem& positives, const DotRanking& out) {
  RankingWalk<T> walk{p, positives, out};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  for_slots(walk.slot_count, [&](int s) { walk.prepare(s); });
  for_slots(walk.slot_count, [&](int s) { walk.walk(s); });
}

RankingKernels ranking_kernels() {
  return {[](const DotProblem& p, const DotProblem& positives, const DotRanking& out) {
    (p.dtype == Dtype::kFloat64 ? dot_ranking<double> : dot_ranking<float>)(p, positives, out);
  }};
}

}  // namespace MI_ISA
}  // namespace mi
