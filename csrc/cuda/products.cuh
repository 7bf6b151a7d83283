// Around the walks of gradients: weights measured against the largest of them, and sums of products turned into
// gradients.
#pragma once
#include "../core/log_sum_exp.h"
#include "element.cuh"
#include "enqueue.cuh"

namespace mi::cuda {

// A power of two near the largest |gradient| that is above it by 2^-shift, so that weights divided by it are at most
// 2^shift; and 1 if any gradient of a log-sum-exp is negative.
struct Normalizer {
  double unit, any_negative;
};

struct GradientVector {
  const double* values = nullptr;
  int64_t count = 0;
};

__device__ inline double power_of_two_above(double x) {
  return x > 0 && x < kInfinity ? exp2(fmin(fmax(ceil(log2(x)), -1000.), 1000.)) : 1;
}

template <class Value>
__global__ void __launch_bounds__(kBlockThreads)
    find_normalizer(GradientVector rows, GradientVector columns, GradientVector positives, int shift, Value* out) {
  Normalizer found{0, 0};
  for (int64_t k = threadIdx.x; k < rows.count; k += kBlockThreads) {
    found.unit = fmax(found.unit, fabs(rows.values[k]));
    if (rows.values[k] < 0) found.any_negative = 1;
  }
  for (int64_t k = threadIdx.x; k < columns.count; k += kBlockThreads) {
    found.unit = fmax(found.unit, fabs(columns.values[k]));
    if (columns.values[k] < 0) found.any_negative = 1;
  }
  for (int64_t k = threadIdx.x; k < positives.count; k += kBlockThreads)
    found.unit = fmax(found.unit, fabs(positives.values[k]));
  found = join_block(found, [](Normalizer a, Normalizer b) {
    return Normalizer{fmax(a.unit, b.unit), fmax(a.any_negative, b.any_negative)};
  });
  if (threadIdx.x == 0) *out = {power_of_two_above(found.unit) * exp2(-static_cast<double>(shift)), found.any_negative};
}

// Terms of exponential weights: g 2^(s - lse) = sign 2^(s - (lse - log2 |g|)), g in units of the normalizer.
template <class Scalar>
__global__ void exponential_terms(const double* lse, const double* gradient, const double* positive, int64_t count,
                                  const Normalizer* normalizer, Scalar highest, Term<Scalar>* out, Scalar* references) {
  const int64_t k = global_thread();
  if (k >= count + kRowsPastEnd) return;
  references[k] = highest;
  if (k >= count) return;
  const double g = gradient ? gradient[k] / normalizer->unit : 0;
  const bool none = g == 0 || (lse && lse[k] == -kInfinity);
  Term<Scalar> term{};
  term.reference = none ? highest : static_cast<Scalar>(lse[k] * kLog2E - log2(fabs(g)));
  term.sign = g < 0 ? -1 : 1;
  term.positive = positive ? static_cast<Scalar>(positive[k] / normalizer->unit) : Scalar(0);
  out[k] = term;
  references[k] = term.reference;
}

template <class Value>
__global__ void __launch_bounds__(kBlockThreads)
    find_softplus_normalizer(const double* log_weight, int64_t count, int shift, Value* out) {
  double highest = -kInfinity;
  for (int64_t k = threadIdx.x; log_weight && k < count; k += kBlockThreads) highest = fmax(highest, log_weight[k]);
  highest = join_block(highest, [](double a, double b) { return fmax(a, b); });
  if (threadIdx.x == 0)
    *out = {power_of_two_above(log_weight ? exp(highest) : 1) * exp2(-static_cast<double>(shift)), 0};
}

// u_j = e^{v_j} in units of the normalizer.
template <class Scalar>
__global__ void softplus_terms(const double* log_weight, int64_t count, const Normalizer* normalizer,
                               Term<Scalar>* out) {
  const int64_t k = global_thread();
  if (k >= count) return;
  Term<Scalar> term{};
  term.sign = static_cast<Scalar>((log_weight ? exp(log_weight[k]) : 1) / normalizer->unit);
  out[k] = term;
}

// Online weights are relative to the references of `parts`; what they come to, and the positives' part of a gradient,
// is known only afterwards.
struct OnlineRows {
  const void* parts = nullptr;  // RowPart [splits][rows]
  const double* negative_lse = nullptr;
  const double* row_weight = nullptr;         // dL/da_i
  const int64_t* target = nullptr;            // null: no positives among the candidates
  const double* positive_gradient = nullptr;  // dL/dz_i
  Features candidates;
};

struct FinishParams {
  Features owner;  // for the gradient of scale
  Dtype dtype;
  int64_t dim;
  const void* products;  // Scalar [splits][rows][d]
  int splits;
  const double* scale;
  const Normalizer* normalizer;  // null: online
  void* out;                     // Scalar [rows][d]
  double* scale_part;            // [rows], or null
  OnlineRows online;
};

// What the products of a row's split have to be multiplied with.
template <class Scalar>
__device__ double weight_of(const FinishParams& p, int split, int64_t row) {
  if (p.normalizer) return p.normalizer->unit;
  const double weight = p.online.row_weight[row];
  const RowPart<Scalar> part = static_cast<const RowPart<Scalar>*>(p.online.parts)[split * p.owner.rows + row];
  return weight == 0 ? 0 : weight * exp2(part.reference - p.online.negative_lse[row] * kLog2E);
}

__device__ inline double positive_part(const FinishParams& p, int64_t row, int64_t k) {
  const OnlineRows& o = p.online;
  if (!o.target) return 0;
  const int64_t target = o.target[row];
  if (target < 0 || target >= o.candidates.rows) return __builtin_nan("");
  return o.positive_gradient[row] * element(o.candidates.data, p.dtype, target * o.candidates.pitch + k);
}

// dx_i = scale sum over splits of weight products, dscale = sum_i <x_i, dx_i> / scale. A warp for each row.
template <class Scalar>
__global__ void finish_gradient(FinishParams p) {
  const int64_t row = global_thread() / 32;
  if (row >= p.owner.rows) return;
  const double scale = *p.scale;
  double inner = 0;
  for (int64_t k = threadIdx.x % 32; k < p.dim; k += 32) {
    double sum = positive_part(p, row, k);
    for (int s = 0; s < p.splits; s++)
      sum +=
          weight_of<Scalar>(p, s, row) * static_cast<const Scalar*>(p.products)[(s * p.owner.rows + row) * p.dim + k];
    if (p.scale_part) inner += element(p.owner.data, p.dtype, row * p.owner.pitch + k) * sum;
    static_cast<Scalar*>(p.out)[row * p.dim + k] = static_cast<Scalar>(scale * sum);
  }
  for (int mask = 16; mask > 0; mask /= 2) inner += __shfl_xor_sync(~0u, inner, mask);
  if (p.scale_part && threadIdx.x % 32 == 0) p.scale_part[row] = inner;
}

// Of the rows of one side.
struct RowTerms {
  void *terms = nullptr, *references = nullptr;

  RowTerms() = default;
  RowTerms(int64_t rows, int64_t scalar_bytes, Arena& arena)
      : terms(arena.take_bytes(4 * scalar_bytes * rows)),
        references(arena.take_bytes(scalar_bytes * (rows + kRowsPastEnd))) {}

  void place(WalkSide& side) const { side.terms = terms, side.references = references; }
};

// Gradient of the rows that one side owns.
struct ProductWalk {
  const Sides& sides;
  const GradientKernel& kernel;
  Weights weights;
  bool queries_own;
  Splits splits;
  Features owner;
  void* out;
  void* products;

  ProductWalk(const Sides& sides, Weights weights, bool queries_own, void* out, Arena& arena)
      : sides(sides),
        kernel(gradient_kernel(sides.p, weights)),
        weights(weights),
        queries_own(queries_own),
        splits(sides.splits(queries_own, kernel.shape)),
        owner(queries_own ? sides.p.queries : sides.p.candidates),
        out(out),
        products(out) {
    if (out && splits.count > 1)
      products =
          arena.take_bytes(splits.count * owner.rows * sides.p.dim * pairwise_kernels(sides.p.dtype).scalar_bytes);
  }

  GradientParams params(const RowTerms& query_terms, const RowTerms& candidate_terms) const {
    GradientParams params;
    params.walk = sides.walk(queries_own, splits);
    query_terms.place(queries_own ? params.walk.owner : params.walk.streamed);
    candidate_terms.place(queries_own ? params.walk.streamed : params.walk.owner);
    params.products = products;
    params.dim = sides.p.dim;
    return params;
  }

  void run(Queue& queue, const GradientParams& params) const {
    if (owner.rows > 0) queue.run([&] { return kernel.run(weights, params, splits.count, queue.stream); });
  }
  void finish(Queue& queue, const Normalizer* normalizer, double* scale_part, const OnlineRows& online) const {
    const DeviceDotProblem& p = sides.p;
    const FinishParams params{owner,   p.dtype,    p.dim, products,   splits.count,
                              p.scale, normalizer, out,   scale_part, online};
    with_scalar(p.dtype, [&]<class Scalar>(Scalar) { queue.each(32 * owner.rows, finish_gradient<Scalar>, params); });
  }
};

// Both gradients, and that of scale.
struct GradientPlan {
  Sides sides;
  const PairwiseKernels& kernels;
  ProductWalk queries, candidates;
  Normalizer* normalizer;
  RowTerms query_terms, candidate_terms;
  double* scale_part;

  GradientPlan(const DeviceDotProblem& p, Weights weights, const DotGradients& g, bool terms_of_queries,
               bool terms_of_candidates, Arena& arena)
      : sides(p, arena),
        kernels(pairwise_kernels(p.dtype)),
        queries(sides, weights, true, g.queries, arena),
        candidates(sides, weights, false, g.candidates, arena),
        normalizer(arena.take<Normalizer>(1)),
        query_terms(terms_of_queries ? RowTerms(p.n(), kernels.scalar_bytes, arena) : RowTerms()),
        candidate_terms(terms_of_candidates ? RowTerms(p.m(), kernels.scalar_bytes, arena) : RowTerms()),
        scale_part(arena.take<double>(p.n())) {}

  // By fixed or softplus weights; params_of(walk) completes their parameters.
  template <class ParamsOf>
  void run(Queue& queue, double* scale, ParamsOf&& params_of) const {
    for (const ProductWalk* walk : {&queries, &candidates}) {
      if (!walk->out) continue;
      walk->run(queue, params_of(*walk, walk->params(query_terms, candidate_terms)));
      walk->finish(queue, normalizer, walk->queries_own ? scale_part : nullptr, {});
    }
    queue.one_block(sum_values<double>, static_cast<const double*>(scale_part), queries.out ? sides.p.n() : 0, scale);
  }
};

}  // namespace mi::cuda
