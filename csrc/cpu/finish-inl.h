// What every walk with gradients ends with: partial sums joined, the positives added, scale's gradient.
#pragma once
#include "../core/partition.h"
#include "grid-inl.h"
#include "products-inl.h"

namespace mi {
namespace MI_ISA {

// The gradient of the candidates by a share of the queries, unscaled: [m][width]. The first share is written into the
// result itself where rows need no padding.
template <class T>
struct CandidateSums {
  T* sums = nullptr;
  double factor = 1;  // what the sums still have to be multiplied with

  void place(const DotProblem& p, const DotGradients& g, int share, int64_t width, Arena& arena) {
    if (g.candidates == nullptr) return;
    sums = share == 0 && width == p.dim ? static_cast<T*>(g.candidates) : arena.take<T>(p.m() * width);
  }
};

// dL/dy_j for j in range: shares added in order. `out` may be the first one's sums.
template <class T>
MI_INLINE void join_candidate_sums(const CandidateSums<T>* shares, int share_count, int64_t dim, int64_t width,
                                   Range range, T* out) {
  const auto joined = [&](auto read, int64_t at) {
    auto sum = static_cast<T>(shares[0].factor) * read(shares[0].sums + at);
    for (int s = 1; s < share_count; s++) sum += static_cast<T>(shares[s].factor) * read(shares[s].sums + at);
    return sum;
  };
  for (int64_t j = range.first; j < range.last; j++) {
    int64_t k = 0;
    for (; k + kLanes<T> <= dim; k += kLanes<T>)
      store(out + j * dim + k, joined([](const T* from) { return load(from); }, j * width + k));
    for (; k < dim; k++) out[j * dim + k] = joined([](const T* from) { return *from; }, j * width + k);
  }
}

// What a slot knows of a block of queries, and its part of their gradients.
template <class T>
struct BlockProducts {
  QueryBlock<T> queries;
  T* products = nullptr;     // [kQueryBlock][width] sum_j E_ij y_j over the slot's candidates
  T* coefficient = nullptr;  // [kQueryBlock] c_i scale

  void place(const DotProblem& p, Arena& arena) {
    queries.place(p, arena);
    products = arena.take<T>(kQueryBlock * queries.width);
    coefficient = arena.take<T>(kQueryBlock);
  }
};

// dx_i = sum over a group's slots of c_i scale sum_j E_ij y_j, which takes the place of the first slot's products;
// returns <x_i, dx_i>, which is scale dL/dscale by this row's negatives.
template <class T, class Slot>
MI_INLINE double write_query_gradient(const DotProblem& p, const Slot* group, int parts, int64_t i, void* gradient) {
  const QueryBlock<T>& queries = group->queries;
  const int64_t b = i - queries.first, width = queries.width;
  const T* x = queries.natural + b * width;
  T* sum = group->products + b * width;
  Vec<T> inner = {};
  for (int64_t k = 0; k < width; k += kLanes<T>) {
    Vec<T> dx = group->coefficient[b] * load(sum + k);
    for (const Slot* slot = group + 1; slot < group + parts; slot++)
      dx += slot->coefficient[b] * load(slot->products + b * width + k);
    inner += load(x + k) * dx;
    store(sum + k, dx);
  }
  if (gradient) std::memcpy(static_cast<T*>(gradient) + i * p.dim, sum, p.dim * sizeof(T));
  return horizontal_sum<T>(inner);
}

// The positives, s_{i,t(i)} = scale <x_i, y_t(i)> with dL/ds = g_i: dx_i += g_i scale y_t(i), dy_t(i) += g_i scale x_i.
template <class T>
MI_INLINE void add_positive_gradients(const DotProblem& p, const double* gradient, const DotGradients& g, Range rows,
                                      Range columns, T* scratch) {
  const int64_t* target = p.exclusions.target;
  if (target == nullptr || gradient == nullptr) return;
  if (g.queries)
    for (int64_t i = rows.first; i < rows.last; i++) {
      const T factor = static_cast<T>(gradient[i] * p.scale);
      T* out = static_cast<T*>(g.queries) + i * p.dim;
      convert(scratch, p.candidates, p.dtype, target[i], 0, p.dim);
      for (int64_t k = 0; k < p.dim; k++) out[k] += factor * scratch[k];
    }
  if (g.candidates)
    for (int64_t i = 0; i < p.n(); i++) {
      if (target[i] < columns.first || target[i] >= columns.last) continue;
      const T factor = static_cast<T>(gradient[i] * p.scale);
      T* out = static_cast<T*>(g.candidates) + target[i] * p.dim;
      convert(scratch, p.queries, p.dtype, i, 0, p.dim);
      for (int64_t k = 0; k < p.dim; k++) out[k] += factor * scratch[k];
    }
}

// dL/dscale = sum over rows of the negatives' part + g_i z_i / scale.
MI_INLINE double scale_gradient(const DotProblem& p, const double* negatives_part, const double* positive_gradient,
                                const double* positive) {
  double sum = 0;
  for (int64_t i = 0; i < p.n(); i++) {
    sum += negatives_part[i];
    if (p.exclusions.target && positive_gradient && positive_gradient[i] != 0)
      sum += positive_gradient[i] * (positive[i] - p.bias) / p.scale;
  }
  return sum;
}

// dL/da_i and dL/dz_i of the loss that `w` describes: the sum of row cross-entropies, or the global log-partition T.
MI_INLINE void partition_gradients(int64_t n, const double* positive, const double* negative_lse,
                                   const PartitionWeights& w, double* row_weight, double* positive_gradient) {
  const double total = w.partition == Partition::kGlobal ? partition_loss(n, positive, negative_lse, w) : 0;
  for (int64_t i = 0; i < n; i++) {
    const PartitionGradient g = partition_gradient(positive ? positive[i] : -kInfinity, negative_lse[i], total, w);
    row_weight[i] = g.negative_lse;
    positive_gradient[i] = g.positive;
  }
}

}  // namespace MI_ISA
}  // namespace mi
