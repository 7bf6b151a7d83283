// Row log-sum-exps of s' + v, of s'' + v and of s' + s'' + v in one walk: 4nmd flops, three exponentials a pair.
#pragma once
#include "pairwise_forward.cuh"
#include "query_pairs.cuh"

namespace mi::cuda {

struct ImportanceForwardParams {
  Walk walk;  // the interleaved queries own it
  const double* second_scale = nullptr;
  int64_t queries = 0;       // n
  double* positive[2] = {};  // [n], null where there are no targets
  void* parts[3] = {};       // RowPart [splits][warps across][n]
};

template <class T>
struct RowPartitions {
  using Scalar = typename T::Scalar;
  using Pairs = QueryPairs<T, true>;
  RowPart<Scalar> part[3][T::kRowBlocks];

  __device__ RowPartitions() {
#pragma unroll
    for (int k = 0; k < 3 * T::kRowBlocks; k++) part[k / T::kRowBlocks][k % T::kRowBlocks] = {-kHighest<T>, 0};
  }

  // Scores are factor * s.
  template <bool kWeighted>
  __device__ __forceinline__ void push(Tile<T>& s, const Pairs& pairs, Scalar first, Scalar second, int tile) {
#pragma unroll
    for (int a = 0; a < T::kRowBlocks; a++) {
      Scalar highest[3], sum[3] = {};
#pragma unroll
      for (int b = 0; b < Pairs::kCandidates; b++) {
        // NaN, where a score is -inf and v infinite, is not the highest
        const Scalar x1 = Pairs::at(s, a, b, 0), x2 = Pairs::at(s, a, b, 1),
                     v = kWeighted ? pairs.log_weight(tile, b) : Scalar(0);
        const Scalar s2 = fma(x2, second, v), logs[3] = {fma(x1, first, v), s2, fma(x1, first, s2)};
#pragma unroll
        for (int k = 0; k < 3; k++) highest[k] = b == 0 ? logs[k] : fmax(highest[k], logs[k]);
      }
#pragma unroll
      for (int k = 0; k < 3; k++) highest[k] = fmin(fmax(part[k][a].reference, highest[k]), kHighest<T>);
#pragma unroll
      for (int b = 0; b < Pairs::kCandidates; b++) {
        const Scalar x1 = Pairs::at(s, a, b, 0), x2 = Pairs::at(s, a, b, 1),
                     v = kWeighted ? pairs.log_weight(tile, b) : Scalar(0);
        auto above = [&](int k) { return Pairs::template above<kWeighted>(highest[k], v); };
        sum[0] += exp2_of(fma(x1, first, above(0)));
        sum[1] += exp2_of(fma(x2, second, above(1)));
        sum[2] += exp2_of(fma(x1, first, fma(x2, second, above(2))));
      }
#pragma unroll
      for (int k = 0; k < 3; k++) {
        RowPart<Scalar>& row = part[k][a];
        row = {highest[k], row.sum * exp2_of(row.reference - highest[k]) + sum[k]};
      }
      read_again();
    }
  }

  // The four threads of a row join what they have of it.
  __device__ __forceinline__ void write(const ImportanceForwardParams& p, const Pairs& pairs) const {
    const Place<T> place = Place<T>::again();
    const int64_t split = blockIdx.y * T::kWarpsAcross + place.column / T::kWarpColumns;
#pragma unroll
    for (int a = 0; a < T::kRowBlocks; a++) {
      const int64_t i = PairedRow(pairs.scores.ring.first_row() + place.row + place.row_of(a, 0)).query;
#pragma unroll
      for (int k = 0; k < 3; k++) {
        RowPart<Scalar> row = part[k][a];
        row = RowLogSumExp<T>::merged(row, shuffled(row, 1));
        row = RowLogSumExp<T>::merged(row, shuffled(row, 2));
        if (place.t == 0 && i < p.queries) static_cast<RowPart<Scalar>*>(p.parts[k])[split * p.queries + i] = row;
      }
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) importance_forward(const __grid_constant__ ImportanceForwardParams p) {
  using Scalar = typename T::Scalar;
  extern __shared__ __align__(1024) unsigned char shared[];
  Ring<T> ring(p.walk, shared);
  const Place<T> place;
  const Scores<T> scores(p.walk, ring, place, true);
  const QueryPairs<T, true> pairs(scores, p.second_scale, p.queries);
  RowPartitions<T> partitions;
  walk_tiles(ring, place, [&](Tile<T>& s, int tile) {
    Scalar first = pairs.factor[0], second = pairs.factor[1];
    if (scores.special(tile) || scores.any_target(tile)) {
      pairs.finish(s, tile, p.positive, p.second_scale);
      first = second = 1;
    }
    if (pairs.weighted)
      partitions.template push<true>(s, pairs, first, second, tile);
    else
      partitions.template push<false>(s, pairs, first, second, tile);
  });
  partitions.write(p, pairs);
}

}  // namespace mi::cuda
