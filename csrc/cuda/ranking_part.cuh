// What is read beside a loss from a part of a row's negatives, whatever the scores: their log-sum-exp, the entropy of
// their weights and the rank of the positive. Parts of a row are merged in a fixed order.
#pragma once
#include <limits>

#include "mma.cuh"
#include "rows.cuh"

namespace mi::cuda {

// E = 2^(s + v - reference): sum of E, moment of E (s + v - reference), and how many scores are not below the
// positive's. The reference is finite, so that infinite scores give infinite or no terms.
template <class Scalar>
struct RankingPart {
  static constexpr Scalar kHighest = std::numeric_limits<Scalar>::max();
  static constexpr Scalar kLowest = -4 * std::numeric_limits<Scalar>::max_exponent;  // there E is 0: no 0 * inf
  Scalar reference = -kHighest, sum = 0, moment = 0;
  int64_t above = 0;

  // excess: s + v - reference.
  __device__ __forceinline__ void add(Scalar excess) {
    const Scalar e = exp2_of(excess);
    sum += e;
    moment += e * fmax(excess, kLowest);
  }
  __device__ __forceinline__ void raise(Scalar to) {
    const Scalar rise = to - reference, factor = exp2_of(-rise);
    moment = sum == 0 ? Scalar(0) : factor * (moment - rise * sum);
    sum *= factor;
    reference = to;
  }
  static __device__ __forceinline__ RankingPart merged(RankingPart a, RankingPart b) {
    const Scalar high = fmax(a.reference, b.reference);
    a.raise(high), b.raise(high);
    return {high, a.sum + b.sum, a.moment + b.moment, a.above + b.above};
  }
  __device__ __forceinline__ RankingPart shuffled(int mask) const {
    return {__shfl_xor_sync(~0u, reference, mask), __shfl_xor_sync(~0u, sum, mask), __shfl_xor_sync(~0u, moment, mask),
            __shfl_xor_sync(~0u, above, mask)};
  }
};

// What a negative must reach to rank above the positive: its score, but -inf never does. Of a NaN the rank is last:
// every candidate counts.
template <class Scalar>
__device__ __forceinline__ Scalar rank_threshold(Scalar positive) {
  constexpr Scalar kHighest = RankingPart<Scalar>::kHighest;
  return positive < -kHighest ? -kHighest : positive;
}

// totals[row] and its parts [count][rows].
template <class Scalar>
__device__ RankingPart<double> merged(RankingPart<double> total, const RankingPart<Scalar>* parts, int count,
                                      int64_t rows, int64_t row) {
  for (int k = 0; k < count; k++) {
    const RankingPart<Scalar> part = parts[k * rows + row];
    total = RankingPart<double>::merged(total, {part.reference, part.sum, part.moment, part.above});
  }
  return total;
}

template <class Scalar>
__global__ void add_rankings(const RankingPart<Scalar>* parts, int count, int64_t rows, RankingPart<double>* totals) {
  const int64_t row = global_thread();
  if (row < rows) totals[row] = merged(totals[row], parts, count, rows, row);
}

// H = log2 S - M / S, S the sum and M the moment; positives are not written.
template <class Scalar>
__global__ void join_rankings(const void* parts, int count, int64_t rows, DotRanking out) {
  const int64_t row = global_thread();
  if (row >= rows) return;
  const RankingPart<double> total = merged({}, static_cast<const RankingPart<Scalar>*>(parts), count, rows, row);
  out.negative_lse[row] = log2_value({total.reference, total.sum}) * kLn2;
  out.entropy[row] = total.sum == 0 ? -kInfinity : (log2(total.sum) - total.moment / total.sum) * kLn2;
  out.rank[row] = total.above;
}

}  // namespace mi::cuda
