// What a walk over gathered scores leaves of each query: sums of its weights, and its gradient but for a factor.
#pragma once
#include "features-inl.h"
#include "parallel.h"

namespace mi {
namespace MI_ISA {

template <class T, class ResultOfPart>
struct QuerySums {
  using Result = ResultOfPart;

  const GatheredProblem& p;
  bool with_products;
  int parts = 1;  // of a query's negatives
  int64_t width = padded<T>(p.dim);
  Result* results = nullptr;     // [n][parts]
  T* products = nullptr;         // [n][parts][width]
  double* scale_part = nullptr;  // [n] this row's part of dL/dscale

  void place(Arena& arena) {
    results = arena.take<Result>(p.n() * parts);
    scale_part = arena.take<double>(p.n());
    if (with_products) products = arena.take<T>(p.n() * parts * width);
  }

  Result row(int64_t i) const {
    Result sum = results[i * parts];
    for (int part = 1; part < parts; part++) sum = merge(sum, results[i * parts + part]);
    return sum;
  }

  // dx_i = sum over parts of factor(i, part) times its products, and <x_i, dx_i> / scale.
  template <class Factor>
  void write_query_gradients(T* out, Factor&& factor) const {
    const int slots = slots_for(p.threads, p.n());
    for_slots(slots, [&](int s) {
      const Range rows = part_of(p.n(), s, slots, 1);
      for (int64_t i = rows.first; i < rows.last; i++) {
        T* dx = out + i * p.dim;
        for (int part = 0; part < parts; part++) {
          const T weight = static_cast<T>(factor(i, part));
          const T* sum = products + (i * parts + part) * width;
          for (int64_t k = 0; k < p.dim; k++) dx[k] = (part ? dx[k] : T(0)) + weight * sum[k];
        }
        scale_part[i] = inner_product(i, dx) / p.scale;
      }
    });
  }

  double sum_of_scale_parts() const {
    double sum = 0;
    for (int64_t i = 0; i < p.n(); i++) sum += scale_part[i];
    return sum;
  }

 private:
  // <x_i, dx_i>
  double inner_product(int64_t i, const T* dx) const {
    T x[kChunk];
    double sum = 0;
    for (int64_t first = 0; first < p.dim; first += kChunk) {
      const int64_t count = smaller(kChunk, p.dim - first);
      convert(x, p.queries, p.dtype, i, first, count);
      for (int64_t k = 0; k < count; k++) sum += static_cast<double>(x[k]) * dx[first + k];
    }
    return sum;
  }
};

}  // namespace MI_ISA
}  // namespace mi
