// Products of weights and features for two query sets in one walk; the weights, dL/ds'_ij and dL/ds''_ij, are
//   G'_ij = g'_i e^{s'_ij + v_j - a'_i} + g*_i e^{s'_ij + s''_ij + v_j - a*_i},   G'' alike.
// 8nmd flops: both sets' scores, and either dx' = G' y and dx'' = G'' y or, where the candidates own the walk,
// dy = G'^T x' + G''^T x''.
#pragma once
#include "pairwise_gradient.cuh"
#include "query_pairs.cuh"

namespace mi::cuda {

struct ImportanceGradientParams : GradientParams {
  const double* second_scale = nullptr;
  int64_t queries = 0;            // n
  bool weights_detached = false;  // no g* in G''
  bool scaled = false;            // terms are of scale' G' and scale'' G''
};

// Of the two terms of a query each has its own set's reference a, factor g (as `sign`) and positive; beside them one
// has the reference a*, the other the factor g*.
template <class Scalar>
struct PairTerms {
  const Term<Scalar>&first, &second;

  __device__ __forceinline__ Scalar joint_reference() const { return first.unused; }
  __device__ __forceinline__ Scalar joint_factor() const { return second.unused; }
};

template <class T, bool kQueriesOwn>
struct ImportanceWeights {
  using Scalar = typename T::Scalar;
  using Pairs = QueryPairs<T, kQueriesOwn>;
  const Pairs& pairs;
  Scalar joint_ratio;  // of g* in G'' to that in G'

  __device__ ImportanceWeights(const ImportanceGradientParams& p, const Pairs& pairs) : pairs(pairs), joint_ratio(1) {
    if (p.scaled) joint_ratio = static_cast<Scalar>(*p.second_scale / *p.walk.scale);
    if (p.weights_detached) joint_ratio = 0;
  }

  // Scores are factor * s.
  template <bool kWeighted>
  __device__ __forceinline__ void apply(Tile<T>& s, Scalar first, Scalar second, int tile) const {
#pragma unroll
    for (int a = 0; a < Pairs::kQueries; a++) {
      const auto* term = pairs.queries(tile).term + pairs.first_query() + pairs.query(a);
      const PairTerms<Scalar> terms{term[0], term[kInterleave]};
#pragma unroll
      for (int b = 0; b < Pairs::kCandidates; b++) {
        Scalar &x1 = Pairs::at(s, a, b, 0), &x2 = Pairs::at(s, a, b, 1);
        const Scalar v = kWeighted ? pairs.log_weight(tile, b) : Scalar(0);
        auto above = [&](Scalar reference) { return Pairs::template above<kWeighted>(reference, v); };
        const Scalar e1 = exp2_of(fma(x1, first, above(terms.first.reference))),
                     e2 = exp2_of(fma(x2, second, above(terms.second.reference))),
                     both = exp2_of(fma(x1, first, fma(x2, second, above(terms.joint_reference()))));
        const Scalar joint = terms.joint_factor() * both;
        x1 = fma(terms.first.sign, e1, joint);
        x2 = fma(terms.second.sign, e2, joint_ratio * joint);
      }
      read_again();
    }
  }
};

template <class T, bool kQueriesOwn>
__global__ void __launch_bounds__(kThreads) importance_products(const __grid_constant__ ImportanceGradientParams p) {
  using Scalar = typename T::Scalar;
  extern __shared__ __align__(1024) unsigned char shared[];
  Ring<T> ring(p.walk, shared);
  const Place<T> place;
  const Scores<T> scores(p.walk, ring, place, true);
  const QueryPairs<T, kQueriesOwn> pairs(scores, p.second_scale, p.queries);
  const ImportanceWeights<T, kQueriesOwn> weights(p, pairs);
  const FixedWeights<T> positives(p, ring, place);
  double* const nowhere[2] = {};
  const int lane = threadIdx.x % 32;
  const uint32_t rows = place.row * kRowBytes + T::Math::rows_offset(lane), columns = T::Math::columns_offset(lane),
                 values = T::Math::values_offset(lane);
  ProductsTile<T> products = {};
  const int last_tile = ring.last_tile();
  int tile = ring.tile;
  ring.start();
  for (; tile < last_tile; tile++) {
    Tile<T> s = {};
    for (int c = 0; c < ring.l.chunks; c++) {
      if (!ring.l.held() || c == 0) ring.advance();
      multiply_chunk<T>(s, ring.owner_chunk(c) + rows, ring.streamed_chunk(c) + columns, p.walk.exact);
    }
    const bool target = scores.any_target(tile);
    Scalar first = pairs.factor[0], second = pairs.factor[1];
    if (target || scores.special(tile)) {
      pairs.finish(s, tile, nowhere, p.second_scale);
      first = second = 1;
    }
    if (pairs.weighted)
      weights.template apply<true>(s, first, second, tile);
    else
      weights.template apply<false>(s, first, second, tile);
    if (target) positives.set_positives(s, scores, tile);
    WeightRows<T> left[T::kRowBlocks];
#pragma unroll
    for (int r = 0; r < T::kRowBlocks; r++) left[r].take(s[r]);
    accumulate<T>(products, left, ring, StepOffsets(values, false), p.walk.exact, [] {});
  }
  await_all_copies();
  write_products<T>(products, p, ring);
}

}  // namespace mi::cuda
