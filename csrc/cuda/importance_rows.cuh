// What is O(n) in the gradients of two query sets, in double: the objective, the terms of weights, sums of products.
#pragma once
#include "../core/importance.h"
#include "products.cuh"
#include "query_pairs.cuh"

namespace mi::cuda {

// The objective's terms, their weighted sum and its gradients with respect to the statistics, from the statistics of
// all rows.
template <class Value>
__global__ void __launch_bounds__(kBlockThreads)
    importance_objective(int64_t n, ImportanceStatistics statistics, ImportanceObjective objective, Value* loss,
                         Value* terms, ImportanceStatistics gradient) {
  struct Sum {
    double terms[3] = {};
  };
  Sum sum;
  for (int64_t i = threadIdx.x; i < n; i += kBlockThreads) {
    const ImportanceRow row = importance_row(i, statistics.positive, statistics.negative_lse);
    add_importance_terms(row, objective.log_mass[i], sum.terms);
    const ImportanceRow g = importance_row_gradient(row, objective.log_mass[i], objective);
    for (int h = 0; h < 2; h++) gradient.positive[h][i] = g.positive[h];
    for (int k = 0; k < 3; k++) gradient.negative_lse[k][i] = g.negative_lse[k];
  }
  sum = join_block(sum, [](const Sum& a, const Sum& b) {
    return Sum{{a.terms[0] + b.terms[0], a.terms[1] + b.terms[1], a.terms[2] + b.terms[2]}};
  });
  if (threadIdx.x > 0) return;
  *loss = importance_loss(sum.terms, objective);
  for (int k = 0; k < 3; k++) terms[k] = sum.terms[k];
}

// Upstream gradients of a query's statistics; in G' and in G'' those of a* count alike, but if detached.
struct ImportanceFactors {
  double own[2], joint, positive[2];

  __device__ ImportanceFactors(const ImportanceUpstream& up, int64_t i) {
    auto value = [&](const double* values) { return values ? values[i] : 0; };
    for (int h = 0; h < 2; h++) own[h] = value(up.negative_lse[h]), positive[h] = value(up.positive[h]);
    joint = value(up.negative_lse[2]);
  }
  // The largest in the weights of set h.
  __device__ double largest(int h, bool detached) const {
    const double shared = h == 1 && detached ? 0 : fabs(joint);
    return fmax(fmax(fabs(own[h]), fabs(positive[h])), shared);
  }
};

// Powers of two that weights are measured in, see Normalizer: G' and G'' themselves, and scale' G' and scale'' G''.
struct ImportanceUnits {
  double plain, scaled;
};

template <class Units>
__global__ void __launch_bounds__(kBlockThreads)
    find_importance_units(ImportanceUpstream up, int64_t n, const double* first_scale, const double* second_scale,
                          int shift, Units* out) {
  double largest[2] = {};
  for (int64_t i = threadIdx.x; i < n; i += kBlockThreads)
    for (int h = 0; h < 2; h++) largest[h] = fmax(largest[h], ImportanceFactors(up, i).largest(h, up.weights_detached));
  auto higher = [](const ImportanceUnits& a, const ImportanceUnits& b) {
    return ImportanceUnits{fmax(a.plain, b.plain), fmax(a.scaled, b.scaled)};
  };
  const ImportanceUnits found =
      join_block(ImportanceUnits{fmax(largest[0], largest[1]),
                                 fmax(fabs(*first_scale) * largest[0], fabs(*second_scale) * largest[1])},
                 higher);
  const double step = exp2(-static_cast<double>(shift));
  if (threadIdx.x == 0) *out = {power_of_two_above(found.plain) * step, power_of_two_above(found.scaled) * step};
}

// g e^{s - lse} = factor 2^(s - reference), s in log2 units: what rounding takes from the reference, the factor makes
// up for. Where lse is +inf a score that is too makes NaN of the factor 0, as e^{inf - inf} is.
template <class Scalar>
struct WeightTerm {
  Scalar reference, factor;

  __device__ WeightTerm(double lse, double g, Scalar highest) {
    const bool none = g == 0 || lse == -kInfinity;
    reference = none ? highest : static_cast<Scalar>(lse * kLog2E);
    const double rest = lse * kLog2E - static_cast<double>(reference);
    factor = static_cast<Scalar>(none || lse == kInfinity ? 0 : g * exp2(-rest));
  }
};

// Of the interleaved rows, laid out as PairTerms reads them. scales null: of G' and G'' themselves.
struct ImportanceTerms {
  ImportanceUpstream up;
  ImportanceStatistics statistics;
  int64_t queries = 0;
  const double* unit = nullptr;
  const double* scale[2] = {};
};

template <class Scalar>
__global__ void importance_terms(const __grid_constant__ ImportanceTerms p, int64_t rows, Scalar highest,
                                 Term<Scalar>* out) {
  const int64_t k = global_thread();
  if (k >= rows) return;
  const PairedRow row(k);
  if (row.query >= p.queries) {
    out[k] = {highest, 0, 0, row.set == 0 ? highest : Scalar(0)};
    return;
  }
  const ImportanceFactors g(p.up, row.query);
  auto own = [&](const auto& of_sets) { return row.set == 0 ? of_sets[0] : of_sets[1]; };  // no index: no stack
  auto scaled = [&](double value, const double* scale) { return (scale ? *scale * value : value) / *p.unit; };
  const double* scale = own(p.scale);
  const WeightTerm<Scalar> alone(own(p.statistics.negative_lse)[row.query], scaled(own(g.own), scale), highest);
  const WeightTerm<Scalar> joint(p.statistics.negative_lse[2][row.query], scaled(g.joint, p.scale[0]), highest);
  out[k] = {alone.reference, alone.factor, static_cast<Scalar>(scaled(own(g.positive), scale)),
            row.set == 0 ? joint.reference : joint.factor};
}

struct ProductSums {
  const void* products = nullptr;  // Scalar [splits][product_rows][dim]
  int splits = 1;
  int64_t product_rows = 0, dim = 0;
  int set = -1;  // whose interleaved rows; -1: the rows are the candidates' own
  const double* unit = nullptr;
  const double* scale = nullptr;  // null: in the products already
  void* out = nullptr;            // Scalar [rows][dim]
  Features owner;                 // for the gradient of scale
  Dtype dtype = Dtype::kFloat32;
  double* scale_part = nullptr;  // [rows] dscale = <x_i, dx_i> / scale, or null
};

// A warp for each row.
template <class Scalar>
__global__ void sum_products(ProductSums p) {
  const int64_t row = global_thread() / 32;
  if (row >= p.owner.rows) return;
  const int64_t from = p.set < 0 ? row : PairedRow::of(p.set, row);
  double inner = 0;
  for (int64_t k = threadIdx.x % 32; k < p.dim; k += 32) {
    double sum = 0;
    for (int s = 0; s < p.splits; s++)
      sum += static_cast<const Scalar*>(p.products)[(s * p.product_rows + from) * p.dim + k];
    sum *= *p.unit;
    if (p.scale_part) inner += element(p.owner.data, p.dtype, row * p.owner.pitch + k) * sum;
    static_cast<Scalar*>(p.out)[row * p.dim + k] = static_cast<Scalar>(p.scale ? *p.scale * sum : sum);
  }
  for (int mask = 16; mask > 0; mask /= 2) inner += __shfl_xor_sync(~0u, inner, mask);
  if (p.scale_part && threadIdx.x % 32 == 0) p.scale_part[row] = inner;
}

}  // namespace mi::cuda
