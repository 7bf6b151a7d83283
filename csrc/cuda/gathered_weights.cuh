// What becomes of the scores of a query with its negatives: their weights in its gradient and sums of them, or the rank
// of its positive. A warp has several teams of lanes; those of a team have the same scores.
#pragma once
#include <limits>

#include "logistic.cuh"
#include "ranking_part.cuh"

namespace mi::cuda {

// The sum over the teams of a warp, each of `lanes` lanes.
template <class Scalar>
__device__ __forceinline__ Scalar sum_of_teams(Scalar value, int lanes) {
  for (int mask = lanes; mask < 32; mask *= 2) value += __shfl_xor_sync(~0u, value, mask);
  return value;
}

// w = 2^(s - r), with a reference r that follows the largest score only when it is left behind by 2^60. r is finite, so
// that infinite scores give infinite or no terms.
template <class Scalar>
struct LazyExponentials {
  static constexpr bool kAreWeights = true;
  static constexpr Scalar kRange = 60, kHighest = std::numeric_limits<Scalar>::max();
  Scalar reference = -kHighest, sum = 0;

  template <class Reader>
  __device__ __forceinline__ void start(const Reader&) {}
  template <int kRows, class Rows>
  __device__ __forceinline__ void weigh(Scalar (&s)[kRows], Rows& rows) {
    Scalar highest = s[0];
#pragma unroll
    for (int r = 1; r < kRows; r++) highest = fmax(highest, s[r]);
    if (highest > reference + kRange) raise(highest, rows);
    Scalar sum_of_rows = 0;
#pragma unroll
    for (Scalar& x : s) {
      x = exp2_of(x - reference);
      sum_of_rows += x;
    }
    sum += sum_of_rows;
  }
  template <class Rows>
  __device__ __forceinline__ void join_teams(int lanes, Rows& rows) {
    Scalar highest = reference;
    for (int mask = lanes; mask < 32; mask *= 2) highest = fmax(highest, __shfl_xor_sync(~0u, highest, mask));
    raise(highest, rows);
    sum = sum_of_teams(sum, lanes);
  }
  __device__ __forceinline__ RowPart<Scalar> part() const { return {reference, sum}; }

 private:
  template <class Rows>
  __device__ __forceinline__ void raise(Scalar highest, Rows& rows) {
    const Scalar raised = fmin(highest, kHighest), factor = exp2_of(reference - raised);
    reference = raised, sum *= factor;
    rows.scale(factor);
  }
};

// w = sigmoid(s), beside the sum of softplus(s).
template <class Scalar>
struct LogisticSums {
  static constexpr bool kAreWeights = true;
  RowPart<Scalar> sums{0, 0};

  template <class Reader>
  __device__ __forceinline__ void start(const Reader&) {}
  template <int kRows, class Rows>
  __device__ __forceinline__ void weigh(Scalar (&s)[kRows], Rows&) {
    RowPart<Scalar> of_rows{0, 0};
#pragma unroll
    for (Scalar& x : s) {
      const Logistic<Scalar> of = logistic(x);
      of_rows.reference += of.softplus, of_rows.sum += of.sigmoid;
      x = of.sigmoid;
    }
    sums.reference += of_rows.reference, sums.sum += of_rows.sum;
  }
  template <class Rows>
  __device__ __forceinline__ void join_teams(int lanes, Rows&) {
    sums = {sum_of_teams(sums.reference, lanes), sum_of_teams(sums.sum, lanes)};
  }
  __device__ __forceinline__ RowPart<Scalar> part() const { return sums; }
};

// No weights: the rank of the query's positive, and the entropy of what the weights would be. The reference is the
// highest score, so that no moment is much larger than its sum.
template <class Scalar>
struct RankedExponentials {
  static constexpr bool kAreWeights = false;
  RankingPart<Scalar> row;
  Scalar threshold;

  template <class Reader>
  __device__ __forceinline__ void start(Reader& reader) {
    threshold = rank_threshold(reader.read_positive());
    // Of a NaN all negatives of the part count, once.
    if (threshold != threshold && reader.team == 0) row.above = reader.last - reader.first;
  }
  template <int kRows, class Rows>
  __device__ __forceinline__ void weigh(const Scalar (&s)[kRows], Rows&) {
    Scalar highest = s[0];
    int above = !(s[0] < threshold);
#pragma unroll
    for (int r = 1; r < kRows; r++) {
      highest = fmax(highest, s[r]);
      above += !(s[r] < threshold);
    }
    row.above += threshold == threshold ? above : 0;
    const Scalar raised = fmin(fmax(row.reference, highest), row.kHighest);
    if (__any_sync(~0u, raised > row.reference)) row.raise(raised);
#pragma unroll
    for (const Scalar x : s) row.add(x - row.reference);
  }
  template <class Rows>
  __device__ __forceinline__ void join_teams(int lanes, Rows&) {
    for (int mask = lanes; mask < 32; mask *= 2) row = RankingPart<Scalar>::merged(row, row.shuffled(mask));
  }
  __device__ __forceinline__ RankingPart<Scalar> part() const { return row; }
};

}  // namespace mi::cuda
