// The walk over each query's own negatives: y_ik is read once, for its score and, weighted at once, for the gradient of
// the query. Nothing of size m is kept.
#pragma once
#include <memory>

#include "gradient-inl.h"
#include "rows-inl.h"

namespace mi {
namespace MI_ISA {

constexpr int64_t kBlockOfNegatives = 256;  // sums over a block are short, sums over blocks few

// The negatives of query i: row index[k] of `rows` for k < m; index null: row k.
struct NegativesOfQuery {
  Features rows;
  const int64_t* index;
};
MI_INLINE NegativesOfQuery negatives_of(const GatheredProblem& p, int64_t i) {
  if (p.index) return {p.candidates, p.index + i * p.m()};
  const char* data = static_cast<const char*>(p.candidates.data) + i * p.query_pitch * size_of(p.dtype);
  return {{data, p.m(), p.candidates.pitch}, nullptr};
}

// sum_k w_ik y_ik of one query over a part of its negatives.
template <class T>
struct WeightedSum {
  T *block = nullptr, *whole = nullptr;  // [width] the block in hand, the blocks before; null: not asked for
  int64_t width = 0;

  void clear() const {
    if (whole) std::memset(block, 0, width * sizeof(T)), std::memset(whole, 0, width * sizeof(T));
  }
  void scale(T factor) const {
    if (whole)
      for (int64_t k = 0; k < width; k++) block[k] *= factor, whole[k] *= factor;
  }
  void fold() const {
    if (whole)
      for (int64_t k = 0; k < width; k++) whole[k] += block[k], block[k] = 0;
  }
};

// w = 2^(s - r), with a reference r that follows the largest score only when it is left behind by 2^60.
template <class T>
struct LazyExponentials {
  using Result = LogSumExp2;

  WeightedSum<T> products;
  T reference = kLowest<T>;
  Vec<T> sum = {};
  double total = 0;

  void weigh(T* s) {
    Vec<T> highest = load(s), block_sum = {};
    for (int64_t r = kLanes<T>; r < kGroup; r += kLanes<T>) highest = max<T>(load(s + r), highest);
    if (__builtin_expect(any_greater<T>(highest, broadcast(reference + kLazyRange<T>)), 0)) raise(s);
    for (int64_t r = 0; r < kGroup; r += kLanes<T>) {
      const Vec<T> e = exp2<T>(load(s + r) - reference);
      store(s + r, e);
      block_sum += e;
    }
    sum += block_sum;
  }
  void fold() {
    total += horizontal_sum<T>(sum);
    sum = Vec<T>{};
    products.fold();
  }
  Result result() const { return {static_cast<double>(reference), total}; }

 private:
  __attribute__((noinline)) void raise(const T* s) {
    T raised = reference;
    for (int64_t r = 0; r < kGroup; r++)
      if (s[r] > raised) raised = s[r];
    if (raised > std::numeric_limits<T>::max()) raised = std::numeric_limits<T>::max();
    const T factor = static_cast<T>(std::exp2(static_cast<double>(reference) - static_cast<double>(raised)));
    reference = raised, sum *= factor, total *= factor;
    products.scale(factor);
  }
};

struct SoftplusSums {
  double value = 0, weight = 0;  // sum of softplus(s) and of sigmoid(s)
};

// w = sigmoid(s).
template <class T>
struct Sigmoids {
  using Result = SoftplusSums;

  WeightedSum<T> products;
  Vec<T> value = {}, weight = {};
  SoftplusSums total = {};

  void weigh(T* s) {
    for (int64_t r = 0; r < kGroup; r += kLanes<T>) {
      const Vec<T> score = load(s + r), zero = {};
      const Logistic<T> of = logistic<T>(score, T(kLn2), exp2<T>(score > zero ? -score : score));
      value += of.softplus;
      weight += of.sigmoid;
      store(s + r, of.sigmoid);
    }
  }
  void fold() {
    total.value += horizontal_sum<T>(value), total.weight += horizontal_sum<T>(weight);
    value = weight = Vec<T>{};
    products.fold();
  }
  Result result() const { return total; }
};

template <class T, class Weights>
struct QueryWalk {
  using Result = typename Weights::Result;
  struct Slot {
    RowReader<T> negatives, query;
    T* block = nullptr;  // [width]
  };

  const GatheredProblem& p;
  bool with_products;
  double clip = 0;
  // Work is shared out by queries and, where these are few, by parts of their negatives.
  int parts = parts_of_query();
  int slot_count = slots_for(p.threads, p.n() * parts);
  int64_t width = padded<T>(p.dim);
  std::unique_ptr<Slot[]> slots{new Slot[slot_count]};
  Result* results = nullptr;     // [n][parts]
  T* products = nullptr;         // [n][parts][width]
  double* scale_part = nullptr;  // [n] this row's part of dL/dscale

  int parts_of_query() const {
    constexpr int kUnitsPerThread = 4;
    const int64_t wanted = p.threads * kUnitsPerThread, blocks = round_up(p.m(), kBlockOfNegatives) / kBlockOfNegatives;
    if (p.threads == 1 || p.n() == 0 || p.n() >= wanted || blocks == 0) return 1;
    return static_cast<int>(smaller((wanted + p.n() - 1) / p.n(), blocks));
  }

  void place(Arena& arena) {
    results = arena.take<Result>(p.n() * parts);
    scale_part = arena.take<double>(p.n());
    if (with_products) products = arena.take<T>(p.n() * parts * width);
    for (int s = 0; s < slot_count; s++) {
      slots[s].negatives.place(p.dtype, p.dim, arena);
      slots[s].query.place(p.dtype, p.dim, arena);
      if (with_products) slots[s].block = arena.take<T>(width);
    }
  }

  GroupScores<T> scores() const {
    return {static_cast<T>(p.scale * kLog2E), static_cast<T>(p.bias * kLog2E), static_cast<T>(clip * kLog2E)};
  }

  void walk() {
    walk([](int64_t, const WeightedSum<T>& sum) { return Weights{sum}; });
  }

  // start(i, sum): what weighs the negatives of query i, or of a part of them.
  template <class Start>
  void walk(Start&& start) {
    for_slots(slot_count, [&](int s) {
      slots[s].negatives.clear(), slots[s].query.clear();
      const Range units = part_of(p.n() * parts, s, slot_count, 1);
      for (int64_t unit = units.first; unit < units.last; unit++) {
        T* sum = with_products ? products + unit * width : nullptr;
        walk_unit(slots[s], unit, start(unit / parts, WeightedSum<T>{slots[s].block, sum, width}));
      }
    });
  }

  void walk_unit(Slot& slot, int64_t unit, Weights weights) {
    const int64_t i = unit / parts;
    const Range part = part_of(p.m(), static_cast<int>(unit % parts), parts, kBlockOfNegatives);
    const NegativesOfQuery negatives = negatives_of(p, i);
    const T* x = slot.query.read_one(p.queries, i);
    const GroupScores<T> scores_of = scores();
    weights.products.clear();
    T s[kGroup];
    for (int64_t first = part.first; first < part.last; first += kBlockOfNegatives) {
      const int64_t last = smaller(first + kBlockOfNegatives, part.last);
      for (int64_t k = first; k < last; k += kGroup) {
        const RowGroup<T>& group = slot.negatives.read(negatives.rows, negatives.index, k, part.last);
        if (with_products) {
          scores_of.template of<kStep / 2>(x, group, width, s);
          weights.weigh(s);
          add_weighted_rows(s, group, width, weights.products.block);
        } else {
          scores_of.template of<kStep>(x, group, width, s);
          weights.weigh(s);
        }
      }
      weights.fold();
    }
    results[unit] = weights.result();
  }

  // dx_i = sum over parts of factor(i, part) times its products, and <x_i, dx_i> / scale.
  template <class Factor>
  void write_query_gradients(T* out, Factor&& factor) {
    for_slots(slot_count, [&](int s) {
      const Range rows = part_of(p.n(), s, slot_count, 1);
      for (int64_t i = rows.first; i < rows.last; i++) {
        T* dx = out + i * p.dim;
        for (int part = 0; part < parts; part++) {
          const T weight = static_cast<T>(factor(i, part));
          const T* sum = products + (i * parts + part) * width;
          for (int64_t k = 0; k < p.dim; k++) dx[k] = (part ? dx[k] : T(0)) + weight * sum[k];
        }
        const T* x = slots[s].query.read_one(p.queries, i);
        double inner = 0;
        for (int64_t k = 0; k < p.dim; k++) inner += static_cast<double>(x[k]) * dx[k];
        scale_part[i] = inner / p.scale;
      }
    });
  }

  double sum_of_scale_parts() const {
    double sum = 0;
    for (int64_t i = 0; i < p.n(); i++) sum += scale_part[i];
    return sum;
  }
};

}  // namespace MI_ISA
}  // namespace mi
