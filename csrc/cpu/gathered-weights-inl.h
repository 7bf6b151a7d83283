// What becomes of the scores of a query with its negatives: their weights in its gradient, and sums of them.
#pragma once
#include "gradient-inl.h"
#include "rows-inl.h"

namespace mi {
namespace MI_ISA {

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
  // What products of `part` are multiplied by to be products of `whole`.
  static double in_units_of(const Result& whole, const Result& part) {
    return std::exp2(part.reference - whole.reference);
  }

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
MI_INLINE SoftplusSums merge(const SoftplusSums& a, const SoftplusSums& b) {
  return {a.value + b.value, a.weight + b.weight};
}

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
      const Logistic<Vec<T>> of = logistic<T>(score, T(kLn2), exp2<T>(score > zero ? -score : score));
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
  static double in_units_of(const Result&, const Result&) { return 1; }
};

}  // namespace MI_ISA
}  // namespace mi
