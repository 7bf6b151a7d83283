// Log-sum-exps of rows, and of columns, in 2nmd flops; on request the online products sum_j E_ij y_j with them, which
// is all a gradient needs when the candidates ask for none (a queue or a bank): 4nmd flops, nothing of size m kept.
#pragma once
#include <memory>

#include "../core/partition.h"
#include "finish-inl.h"

namespace mi {
namespace MI_ISA {

// Running log-sum-exp of each column, a partial sum a lane.
template <class T>
struct ColumnSums {
  T* reference = nullptr;  // [m]
  T* sum = nullptr;        // [m][lanes]

  void place(const DotProblem& p, Arena& arena) {
    reference = arena.take<T>(p.m());
    sum = arena.take<T>(p.m() * kLanes<T>);
  }
  void clear(int64_t m) const {
    for (int64_t j = 0; j < m; j++) reference[j] = kLowest<T>;
    std::memset(sum, 0, m * kLanes<T> * sizeof(T));
  }
  LogSumExp2 at(int64_t j) const {
    return {static_cast<double>(reference[j]), horizontal_sum<T>(load(sum + j * kLanes<T>))};
  }
};

// Raises the reference of a column whose score leaves the range. Rare.
template <class T>
MI_NOINLINE void raise_column(const ColumnSums<T>& columns, int64_t j, const T* highest) {
  T raised = columns.reference[j];
  for (int i = 0; i < kLanes<T>; i++)
    if (highest[i] > raised) raised = highest[i];
  if (raised > std::numeric_limits<T>::max()) raised = std::numeric_limits<T>::max();
  const T factor = static_cast<T>(std::exp2(static_cast<double>(columns.reference[j]) - raised));
  store(columns.sum + j * kLanes<T>, load(columns.sum + j * kLanes<T>) * factor);
  columns.reference[j] = raised;
}

template <class T, int kRows, int kVectors>
MI_INLINE void add_to_columns(const Tile<T, kRows, kVectors>& s, const ColumnSums<T>& columns, int64_t j) {
#pragma GCC unroll 6
  for (int r = 0; r < kRows; r++) {
    Vec<T> highest = s.at[r][0];
#pragma GCC unroll 4
    for (int v = 1; v < kVectors; v++) highest = max<T>(s.at[r][v], highest);
    if (__builtin_expect(any_greater<T>(highest, broadcast(columns.reference[j + r]) + kLazyRange<T>), 0)) {
      T spilled[kLanes<T>];
      store(spilled, highest);
      raise_column(columns, j + r, spilled);
    }
  }
  Vec<T> sum[kRows] = {};
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; v++) {
    Vec<T> e[kRows];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++) e[r] = s.at[r][v] - columns.reference[j + r];
    exp2_all<T>(e);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++) sum[r] += e[r];
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; r++)
    store(columns.sum + (j + r) * kLanes<T>, load(columns.sum + (j + r) * kLanes<T>) + sum[r]);
}

// A tile of scores to the sums of its rows and columns. `pad` is -inf in the lanes beyond the last query, else 0; null
// where the queries fill their lanes.
template <class T, int kRows, int kVectors>
MI_NOINLINE void column_exponential_tile(const BlockScores<T>& scores, const RowSums<T>& rows,
                                         const ColumnSums<T>& columns, const T* pad, int64_t j, int64_t vector) {
  auto s = scores.template tile<kRows, kVectors>(j, vector);
  const int64_t lane = vector * kLanes<T>;
  if (pad)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      const Vec<T> padding = load(pad + lane + v * kLanes<T>);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; r++) s.at[r][v] = padding == T(0) ? s.at[r][v] : padding;
    }
  add_to_columns(s, columns, j);
  exponentiate_rows<false>(s, rows, Referenced<T>{}, lane, static_cast<T*>(nullptr));
}

MI_INLINE int statistics_parts(const DotProblem& p, int slots) { return p.n() >= slots * kQueryBlock / 2 ? 1 : slots; }

template <class T>
struct StatisticsWalk {
  struct Slot {
    QueryBlock<T> queries;
    TransposedQueries<T> transposed;
    RowSums<T> sums;
    ColumnSums<T> columns;
    T* exponentials = nullptr;  // E [GradientProducts::kGroup][kQueryBlock], where products are asked for
    GradientProducts<T> gradient;
    T* pad = nullptr;  // [kQueryBlock]
  };

  const DotProblem& p;
  const DotStatistics& statistics;
  bool with_products;
  int slot_count;
  // Slots share the queries out, or, when these are few, the candidates: every query then has a part in each slot.
  int parts = statistics_parts(p, slot_count);
  int64_t width = padded<T>(p.dim);
  Candidates<T> candidates = {};
  CandidateSide<T> side = {};
  std::unique_ptr<Slot[]> slots{new Slot[slot_count]};
  LogSumExp2* row_parts = nullptr;  // [parts][n]
  T* products = nullptr;            // [parts][n][width], relative to the part's reference

  void place(Arena& arena) {
    candidates.place(p, arena);
    side.place(p, arena);
    row_parts = arena.take<LogSumExp2>(parts * p.n());
    if (with_products) products = arena.take<T>(parts * p.n() * width);
    for (int s = 0; s < slot_count; s++) {
      slots[s].queries.place(p, arena);
      slots[s].transposed.place(p, columns_of(s).size(), arena);
      slots[s].sums.place(arena);
      if (statistics.column_negative_lse) slots[s].columns.place(p, arena);
      if (with_products) {
        slots[s].exponentials = arena.take<T>(GradientProducts<T>::kGroup * kQueryBlock);
        slots[s].gradient.place(p, false, columns_of(s).size(), arena);
      }
      slots[s].pad = arena.take<T>(kQueryBlock);
    }
  }

  void prepare(int s) {
    const Range columns = part_of(p.m(), s, slot_count, kCandidateBlock);
    candidates.fill(p, columns.first, columns.last);
    side.fill(p, columns.first, columns.last, false);
    slots[s].queries.clear_marks(p);
    if (statistics.column_negative_lse) slots[s].columns.clear(p.m());
  }

  Range columns_of(int s) const {
    return parts == 1 ? Range{0, p.m()} : part_of(p.m(), s, slot_count, kCandidateBlock);
  }

  void walk(int s) {
    Slot& slot = slots[s];
    const Range rows = parts == 1 ? part_of(p.n(), s, slot_count, kLanes<T>) : Range{0, p.n()};
    const Range columns = columns_of(s);
    const int part = parts == 1 ? 0 : s;
    // Blocks of about equal size: a short last one would pass all candidates for little.
    const int64_t blocks = round_up(rows.size(), kQueryBlock) / kQueryBlock,
                  block_rows = blocks == 0 ? 0 : padded<T>((rows.size() + blocks - 1) / blocks);
    for (int64_t i = rows.first; i < rows.last; i += block_rows) {
      slot.queries.load(p, i, smaller(block_rows, rows.last - i));
      slot.transposed.fill(p, slot.queries);
      slot.sums.clear();
      T* block_products = with_products ? products + (part * p.n() + i) * width : nullptr;
      if (with_products)
        multiply(slot, columns, block_products);
      else if (statistics.column_negative_lse)
        sum_rows_and_columns(slot, columns);
      else
        sum_rows(slot, columns, {}, nullptr);
      for (int64_t b = 0; b < slot.queries.rows; b++) {
        row_parts[part * p.n() + i + b] = slot.sums.at(b);
        if (!p.exclusions.target) continue;
        const int64_t target = p.exclusions.target[i + b];
        if (target >= columns.first && target < columns.last)
          statistics.positive[i + b] = slot.queries.positive[b] * kLn2;
      }
    }
  }

  BlockScores<T> scores_of(const Slot& slot) const {
    const T bias = static_cast<T>(p.bias * kLog2E), clip = static_cast<T>(statistics.clip * kLog2E);
    return {p.dim, candidates, slot.transposed, {side, slot.queries, bias, clip}};
  }

  // kept: where E of `columns` goes, or null.
  void sum_rows(Slot& slot, Range columns, Referenced<T> done, T* kept) {
    const BlockScores<T> scores = scores_of(slot);
    for_score_tiles(
        scores, columns.first, columns.last,
        [&](auto rows, auto vectors, int64_t j, int64_t vector) {
          if (kept == nullptr)
            return lazy_exponential_tile<false, T, rows(), vectors()>(scores, slot.sums, done, j, vector, kept);
          done.candidates = j - columns.first;
          lazy_exponential_tile<true, T, rows(), vectors()>(scores, slot.sums, done, j, vector,
                                                            kept + done.candidates * kQueryBlock);
        },
        [&](int64_t) { slot.sums.fold(); });
  }

  void sum_rows_and_columns(Slot& slot, Range columns) {
    const BlockScores<T> scores = scores_of(slot);
    for (int64_t i = 0; i < kQueryBlock; i++)
      slot.pad[i] = i < slot.queries.rows ? T(0) : -std::numeric_limits<T>::infinity();
    const T* pad = slot.queries.rows % kLanes<T> ? slot.pad : nullptr;
    for_score_tiles(
        scores, columns.first, columns.last,
        [&](auto rows, auto vectors, int64_t j, int64_t vector) {
          column_exponential_tile<T, rows(), vectors()>(scores, slot.sums, slot.columns, pad, j, vector);
        },
        [&](int64_t) { slot.sums.fold(); });
  }

  // Products keep up with the references, group by group.
  void multiply(Slot& slot, Range columns, T* block_products) {
    std::memset(block_products, 0, slot.queries.rows * width * sizeof(T));
    for (int64_t j = columns.first; j < columns.last; j += GradientProducts<T>::kGroup) {
      const Range group{j, smaller(j + GradientProducts<T>::kGroup, columns.last)};
      sum_rows(slot, group, {slot.exponentials, 0, block_products, width, slot.queries.rows}, slot.exponentials);
      slot.gradient.add(slot.exponentials, true, candidates, group, slot.queries, block_products, nullptr);
    }
  }

  LogSumExp2 row(int64_t i) const {
    LogSumExp2 sum = row_parts[i];
    for (int part = 1; part < parts; part++) sum = merge(sum, row_parts[part * p.n() + i]);
    return sum;
  }

  void finish_statistics(int s) {
    const Range rows = part_of(p.n(), s, slot_count, 1), columns = part_of(p.m(), s, slot_count, 1);
    for (int64_t i = rows.first; i < rows.last; i++) statistics.negative_lse[i] = log2_value(row(i)) * kLn2;
    if (statistics.column_negative_lse == nullptr) return;
    for (int64_t j = columns.first; j < columns.last; j++) {
      LogSumExp2 sum;
      for (int part = 0; part < slot_count; part++) sum = merge(sum, slots[part].columns.at(j));
      statistics.column_negative_lse[j] = log2_value(sum) * kLn2;
    }
  }

  // dx_i = scale w_i sum_j y_j E_ij 2^(r - lse), w_i = dL/da_i, from the parts' products.
  void write_query_gradients(int s, const double* row_weight, T* out, double* scale_part) {
    const Range rows = part_of(p.n(), s, slot_count, 1);
    for (int64_t i = rows.first; i < rows.last; i++) {
      const double lse2 = log2_value(row(i));
      double inner = 0;
      for (int part = 0; part < parts; part++) {
        const double reference = row_parts[part * p.n() + i].reference;
        const double weight = row_weight[i] == 0 ? 0 : row_weight[i] * std::exp2(reference - lse2);
        const T factor = static_cast<T>(weight * p.scale);
        const T* y = products + (part * p.n() + i) * width;
        T* dx = out + i * p.dim;
        for (int64_t k = 0; k < p.dim; k++) dx[k] = (part ? dx[k] : T(0)) + factor * y[k];
      }
      T* x = slots[s].queries.natural;
      convert(x, p.queries, p.dtype, i, 0, p.dim);
      for (int64_t k = 0; k < p.dim; k++) inner += static_cast<double>(x[k]) * out[i * p.dim + k];
      scale_part[i] = inner / p.scale;
    }
  }
};

template <class T>
int statistics_slots(const DotProblem& p) {
  return slots_for(p.threads, round_up(p.n(), kLanes<T>) / kLanes<T> * round_up(p.m(), kCandidateBlock));
}

template <class T>
void dot_statistics(const DotProblem& p, const DotStatistics& statistics) {
  StatisticsWalk<T> walk{p, statistics, false, statistics_slots<T>(p)};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  for_slots(walk.slot_count, [&](int s) { walk.prepare(s); });
  for_slots(walk.slot_count, [&](int s) { walk.walk(s); });
  for_slots(walk.slot_count, [&](int s) { walk.finish_statistics(s); });
}

// Like dot_fused, when the candidates ask for no gradient.
template <class T>
void dot_fused_queries(const DotProblem& p, const PartitionWeights& weights, const double* external_positive,
                       const DotStatistics& statistics, const DotGradients& g, double* positive_gradient) {
  StatisticsWalk<T> walk{p, statistics, true, statistics_slots<T>(p)};
  double *row_weight = nullptr, *scale_part = nullptr;
  Workspace workspace([&](Arena& arena) {
    walk.place(arena);
    row_weight = arena.take<double>(p.n());
    scale_part = arena.take<double>(p.n());
  });
  for_slots(walk.slot_count, [&](int s) { walk.prepare(s); });
  for_slots(walk.slot_count, [&](int s) { walk.walk(s); });
  for_slots(walk.slot_count, [&](int s) { walk.finish_statistics(s); });
  const double* positive = p.exclusions.target ? statistics.positive : external_positive;
  partition_gradients(p.n(), positive, statistics.negative_lse, weights, row_weight, positive_gradient);
  for_slots(walk.slot_count, [&](int s) {
    walk.write_query_gradients(s, row_weight, static_cast<T*>(g.queries), scale_part);
    add_positive_gradients(p, positive_gradient, g, part_of(p.n(), s, walk.slot_count, 1), {0, 0},
                           walk.slots[s].queries.natural);
  });
  *g.scale = scale_gradient(p, scale_part, positive_gradient, statistics.positive);
}

}  // namespace MI_ISA
}  // namespace mi
