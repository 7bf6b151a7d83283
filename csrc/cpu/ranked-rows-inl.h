// What is read beside a loss from rows of scores that lie in memory: the entropy of the negatives' weights, and how
// many negatives score no less than the positive.
#pragma once
#include <algorithm>

#include "exponential-inl.h"

namespace mi {
namespace MI_ISA {

// A sum over negatives that tells their log-sum-exp and the entropy of softmax(s); log2 units.
struct EntropySum2 {
  LogSumExp2 weights;  // reference r, S = sum of 2^(s - r)
  double moment = 0;   // M = sum of 2^(s - r) (s - r)

  // H = log2 S - M / S.
  double entropy() const { return weights.sum == 0 ? -kInfinity : std::log2(weights.sum) - moment / weights.sum; }
};

// Measured against a reference that is higher by h, M becomes 2^-h (M - h S).
MI_INLINE EntropySum2 merge(const EntropySum2& a, const EntropySum2& b) {
  const LogSumExp2 weights = merge(a.weights, b.weights);
  auto moved = [&](const EntropySum2& part) {
    if (part.weights.sum == 0) return 0.0;
    const double rise = weights.reference - part.weights.reference;
    return std::exp2(-rise) * (part.moment - rise * part.weights.sum);
  };
  return {weights, moved(a) + moved(b)};
}

// Of a row of whole vectors; unit: what a score of 1 is in log2 units.
template <class T>
MI_NOINLINE EntropySum2 entropy_sum_of_row(const T* s, int64_t count, T unit) {
  Vec<T> highest = broadcast(kLowest<T>), sum = {}, moment = {};
  for (int64_t c = 0; c < count; c += kLanes<T>) highest = max<T>(load(s + c), highest);
  T top = highest[0];
  for (int lane = 1; lane < kLanes<T>; lane++) top = highest[lane] > top ? highest[lane] : top;
  const T reference = reference_for(top, unit);
  const Vec<T> lowest = broadcast(T(-4) * std::numeric_limits<T>::max_exponent);  // where the weight is 0: no 0 * inf
  for (int64_t c = 0; c < count; c += kLanes<T>) {
    const Vec<T> excess = load(s + c) * unit - reference, e = exp2<T>(excess);
    sum += e;
    moment += e * max<T>(lowest, excess);
  }
  return {{static_cast<double>(reference), horizontal_sum<T>(sum)}, horizontal_sum<T>(moment)};
}

// What a negative must reach to rank above the positive: its score, but -inf never does.
template <class T>
MI_INLINE T rank_threshold(T positive) {
  return positive < kLowest<T> ? kLowest<T> : positive;
}

// Scores not below the threshold, in a row of whole vectors; NaN is not below.
template <class T>
MI_NOINLINE int64_t count_not_below(const T* s, int64_t count, T threshold) {
  Vec<IntOf<T>> above = {};
  for (int64_t c = 0; c < count; c += kLanes<T>) above += IntOf<T>(1) + (load(s + c) < threshold);  // true is -1
  int64_t total = 0;
  for (int lane = 0; lane < kLanes<T>; lane++) total += above[lane];
  return total;
}

}  // namespace MI_ISA
}  // namespace mi
