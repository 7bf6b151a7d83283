// Log-sum-exps of rows, entropies of their weights and ranks of their positives in one walk, 2nmd flops, once the
// scores of the positives are known by the same products: equal vectors are exactly ties.
#pragma once
#include "pairwise_forward.cuh"
#include "ranking_part.cuh"

namespace mi::cuda {

// Owner: queries, whose terms' `positive` is the score that a negative has to reach.
struct RankingParams {
  Walk walk;
  Walk unweighted;        // the same without log-weights: these say how often a negative counts, not how it ranks
  void* parts = nullptr;  // RankingPart [splits][warps across][owner rows]
};

template <class T>
struct RowRanking {
  using Scalar = typename T::Scalar;
  RankingPart<Scalar> part[2 * T::kRowBlocks];

  // Scores are factor * s.
  __device__ __forceinline__ void push(Tile<T>& s, Scalar factor, const Walk& walk, const Ring<T>& ring,
                                       const Place<T>& place, int tile) {
    constexpr Scalar kInf = static_cast<Scalar>(kInfinity);
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      const Scalar threshold = ring.owner().term[place.row + place.row_of(k / 2, k % 2)].positive;
      Scalar highest = -kInf;
      int above = 0;
#pragma unroll
      for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
        Scalar& x = s[k / 2][q / 2][2 * (k % 2) + q % 2];
        const int column = place.column + place.column_of(q / 2, q % 2);
        const Scalar weight = walk.streamed.log_weight ? ring.streamed(tile).log_weight[column] : Scalar(0);
        x = weight == -kInf ? -kInf : x * factor;
        above += !(x < threshold);
        if (x != -kInf) x += weight;  // no -inf + inf
        highest = fmax(highest, x);
      }
      part[k].above += above;
      add_exponentials(part[k], s, k, fmin(fmax(part[k].reference, highest), kHighest<T>));
      read_again();
    }
  }

  static __device__ __forceinline__ void add_exponentials(RankingPart<Scalar>& row, const Tile<T>& s, int k,
                                                          Scalar raised) {
    row.raise(raised);
#pragma unroll
    for (int q = 0; q < 2 * T::kColumnBlocks; q++) row.add(s[k / 2][q / 2][2 * (k % 2) + q % 2] - raised);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) ranking_walk(const __grid_constant__ RankingParams p) {
  using Scalar = typename T::Scalar;
  extern __shared__ __align__(1024) unsigned char shared[];
  Ring<T> ring(p.walk, shared);
  const Place<T> place;
  const Scores<T> scores(p.unweighted, ring, place, true);
  RowRanking<T> ranking;
  walk_tiles(ring, place, [&](Tile<T>& s, int tile) {
    ranking.push(s, scores.finish_special(s, tile, nullptr).factor, p.walk, ring, place, tile);
  });
  const auto* terms = static_cast<const Term<Scalar>*>(p.walk.owner.terms);
  const bool first = blockIdx.y == 0 && place.column < T::kWarpColumns;
  write_rows<RankingPart<Scalar>>(ring, place, p.parts, [&](int k) {
    RankingPart<Scalar> part = ranking.part[k];
    part = RankingPart<Scalar>::merged(part, part.shuffled(1));
    part = RankingPart<Scalar>::merged(part, part.shuffled(2));
    const int64_t row = ring.first_row() + place.row + place.row_of(k / 2, k % 2);
    if (row < p.walk.owner.rows && terms[row].positive != terms[row].positive)
      part.above = first ? p.walk.streamed.rows : 0;
    return part;
  });
}

struct PositivesParams {
  Walk walk;                   // streamed: the positive of each of the owner's rows
  double* positive = nullptr;  // [owner rows] in nats, or null
  void* terms = nullptr;       // Term<Scalar> [owner rows]
};

// The diagonal of the scores alone.
template <class T>
__global__ void __launch_bounds__(kThreads) ranking_positives(const __grid_constant__ PositivesParams p) {
  using Scalar = typename T::Scalar;
  static_assert(T::kRows % T::kColumns == 0);
  extern __shared__ __align__(1024) unsigned char shared[];
  Ring<T> ring(p.walk, shared);
  const Place<T> place;
  const Scores<T> scores(p.walk, ring, place, true);
  constexpr int kTiles = T::kRows / T::kColumns;
  ring.tile = blockIdx.x * kTiles;
  ring.end = min(ring.end, ring.tile + kTiles);
  walk_tiles(ring, place, [&](Tile<T>& s, int tile) {
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      const int64_t row = ring.first_row() + place.row + place.row_of(k / 2, k % 2);
#pragma unroll
      for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
        if (ring.first_column(tile) + place.column + place.column_of(q / 2, q % 2) != row) continue;
        if (row >= p.walk.owner.rows) continue;
        const Scalar product = s[k / 2][q / 2][2 * (k % 2) + q % 2], score = product * scores.affine.factor;
        if (p.positive) p.positive[row] = static_cast<double>(product) * *p.walk.scale;
        static_cast<Term<Scalar>*>(p.terms)[row] = {0, 0, rank_threshold(score), 0};
      }
    }
  });
}

}  // namespace mi::cuda
