// Row log-sum-exps, or softplus sums, over all scores: 2nmd flops, one exponential a score.
#pragma once
#include <limits>
#include <type_traits>

#include "logistic.cuh"
#include "scores.cuh"

namespace mi::cuda {

template <class T>
constexpr typename T::Scalar kHighest = std::numeric_limits<typename T::Scalar>::max();

// Rows' running (reference r, sum of 2^(s - r)). r rises to the highest score where scores have left it far behind,
// which shows in their sum without a look at each. r is finite, so that infinite scores give infinite or no terms.
template <class T>
struct RowLogSumExp {
  using Scalar = typename T::Scalar;
  static constexpr Scalar kHighestSum = 1ull << 60;  // of one push
  RowPart<Scalar> part[T::kRowBlocks][2];

  __device__ RowLogSumExp() {
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) part[k / 2][k % 2] = {-kHighest<T>, 0};
  }

  // Scores are factor * s, factor > 0.
  __device__ __forceinline__ void push(const Tile<T>& s, Affine<Scalar> affine) {
    const Scalar factor = affine.factor;
    Scalar sum[2 * T::kRowBlocks];
    bool behind = false;
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      sum[k] = exponentials(s, k, factor);
      behind |= !(sum[k] <= kHighestSum);
    }
    if (behind) {
#pragma unroll
      for (int k = 0; k < 2 * T::kRowBlocks; k++) {
        raise(s, k, factor);
        sum[k] = exponentials(s, k, factor);
      }
    }
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) part[k / 2][k % 2].sum += sum[k];
  }

  __device__ __forceinline__ Scalar exponentials(const Tile<T>& s, int k, Scalar factor) const {
    const int r = k / 2, h = k % 2;
    Scalar sum = 0;
#pragma unroll
    for (int q = 0; q < 2 * T::kColumnBlocks; q++)
      sum += exp2_of(fma(s[r][q / 2][2 * h + q % 2], factor, -part[r][h].reference));
    return sum;
  }
  __device__ __forceinline__ void raise(const Tile<T>& s, int k, Scalar factor) {
    const int r = k / 2, h = k % 2;
    Scalar highest = s[r][0][2 * h];
#pragma unroll
    for (int q = 1; q < 2 * T::kColumnBlocks; q++) highest = fmax(highest, s[r][q / 2][2 * h + q % 2]);
    const Scalar raised = fmin(fmax(part[r][h].reference, highest * factor), kHighest<T>);
    part[r][h] = {raised, part[r][h].sum * exp2_of(part[r][h].reference - raised)};
  }

  static __device__ __forceinline__ RowPart<Scalar> merged(RowPart<Scalar> a, RowPart<Scalar> b) {
    const Scalar high = fmax(a.reference, b.reference);
    return {high, a.sum * exp2_of(a.reference - high) + b.sum * exp2_of(b.reference - high)};
  }
};

// Rows' sums of u softplus(s), and of its derivative u sigmoid(s).
template <class T>
struct RowSoftplus {
  using Scalar = typename T::Scalar;
  using Factors = Scalar[T::kColumnBlocks][2];  // u
  RowPart<Scalar> part[T::kRowBlocks][2] = {};

  // u = 1
  __device__ __forceinline__ void push(const Tile<T>& s, Affine<Scalar> affine) {
    Factors u;
#pragma unroll
    for (int k = 0; k < 2 * T::kColumnBlocks; k++) u[k / 2][k % 2] = 1;
    push(s, affine, u);
  }
  __device__ __forceinline__ void push(const Tile<T>& s, Affine<Scalar> affine, const Factors& u) {
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      const int r = k / 2, h = k % 2;
      Scalar value = 0, weight = 0;
#pragma unroll
      for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
        const Scalar factor = u[q / 2][q % 2];
        const auto of = logistic(fma(s[r][q / 2][2 * h + q % 2], affine.factor, affine.offset));
        value += factor == 0 ? Scalar(0) : factor * of.softplus;
        weight += factor == 0 ? Scalar(0) : factor * of.sigmoid;
      }
      part[r][h].reference += value;
      part[r][h].sum += weight;
    }
  }
  static __device__ __forceinline__ RowPart<Scalar> merged(RowPart<Scalar> a, RowPart<Scalar> b) {
    return {a.reference + b.reference, a.sum + b.sum};
  }
};

template <class Scalar>
__device__ __forceinline__ RowPart<Scalar> shuffled(RowPart<Scalar> a, int mask) {
  return {__shfl_xor_sync(~0u, a.reference, mask), __shfl_xor_sync(~0u, a.sum, mask)};
}

// Whether this block of threads has a row to see to.
template <class T>
__device__ bool has_undecided(const ForwardParams& p) {
  if (!p.undecided) return true;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * T::kRows;
  for (int row = 0; row < T::kRows && first + row < p.walk.owner.rows; row += kRowsDecided)
    if (p.undecided[(first + row) / kRowsDecided]) return true;
  return false;
}

// What a block of threads has found of its rows.
template <class T, class Sums>
__device__ __forceinline__ void write_sums(const Sums& sums, const ForwardParams& p, const Ring<T>& ring,
                                           const Place<T>& place) {
  using Part = RowPart<typename T::Scalar>;
  write_rows<Part>(ring, place, p.parts, [&](int k) {
    Part part = sums.part[k / 2][k % 2];
    part = Sums::merged(part, shuffled(part, 1));
    return Sums::merged(part, shuffled(part, 2));
  });
}

template <class T, bool kSoftplus>
using RowSumsOf = std::conditional_t<kSoftplus, RowSoftplus<T>, RowLogSumExp<T>>;

template <class T, bool kSoftplus>
__global__ void __launch_bounds__(kThreads, kSoftplus ? 3 : 2)
    pairwise_forward(const __grid_constant__ ForwardParams p) {
  using Scalar = typename T::Scalar;
  extern __shared__ __align__(1024) unsigned char shared[];
  if (!has_undecided<T>(p)) return;
  Ring<T> ring(p.walk, shared);
  const Place<T> place;
  const Scores<T> scores(p.walk, ring, place, kSoftplus);
  start_looks(ring, scores);
  RowSumsOf<T, kSoftplus> sums;
  walk_tiles(ring, place, [&](Tile<T>& s, int tile) {
    const Affine<Scalar> affine = finish_due(ring, scores, s, tile, p.positive);
    if constexpr (kSoftplus) {
      typename RowSoftplus<T>::Factors u;
#pragma unroll
      for (int k = 0; k < 2 * T::kColumnBlocks; k++)
        u[k / 2][k % 2] = p.walk.streamed.terms
                              ? ring.streamed(tile).term[place.column + place.column_of(k / 2, k % 2)].sign
                              : Scalar(1);
      sums.push(s, affine, u);
    } else {
      sums.push(s, affine);
    }
  });
  write_sums(sums, p, ring, place);
}

}  // namespace mi::cuda
