// The walks over gathered scores and the table of them.
#include "families-inl.h"
#include "gathered-dense-inl.h"
#include "gathered-ranking-inl.h"

namespace mi {
namespace MI_ISA {

template <class T>
using ExponentialWalk = QueryWalk<T, LazyExponentials<T>>;

template <class T>
LogSumExp2 row_sum(const ExponentialWalk<T>& walk, int64_t i) {
  LogSumExp2 sum;
  for (int part = 0; part < walk.parts; part++) sum = merge(sum, walk.results[i * walk.parts + part]);
  return sum;
}

template <class T>
void write_log_sum_exps(const ExponentialWalk<T>& walk, double* negative_lse) {
  for (int64_t i = 0; i < walk.p.n(); i++) negative_lse[i] = log2_value(row_sum(walk, i)) * kLn2;
}

template <class T>
void log_sum_exp(const GatheredProblem& p, double clip, double* negative_lse) {
  ExponentialWalk<T> walk{p, false, clip};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  walk.walk();
  write_log_sum_exps(walk, negative_lse);
}

// dx and dscale, then dy, for dL/da_i = row_weight_i.
template <class T>
void write_gradients(ExponentialWalk<T>& walk, const double* negative_lse, const double* row_weight,
                     const DotGradients& g) {
  const GatheredProblem& p = walk.p;
  walk.write_query_gradients(static_cast<T*>(g.queries), [&](int64_t i, int part) {
    const double lse2 = log2_value(row_sum(walk, i));
    if (row_weight[i] == 0 || lse2 == -kInfinity) return 0.0;
    return p.scale * row_weight[i] * std::exp2(walk.results[i * walk.parts + part].reference - lse2);
  });
  *g.scale = walk.sum_of_scale_parts();
  if (g.candidates == nullptr) return;
  KnownExponentials<T> weights;
  Workspace workspace([&](Arena& arena) { weights.place(p, arena); });
  weights.fill(p, negative_lse, row_weight);
  write_candidate_gradients<T>(p, weights, g.candidates);
}

template <class T>
void fused(const GatheredProblem& p, const PartitionWeights& loss, const double* positive, double* negative_lse,
           const DotGradients& g, double* positive_gradient) {
  ExponentialWalk<T> walk{p, true};
  double* row_weight = nullptr;
  Workspace workspace([&](Arena& arena) { walk.place(arena), row_weight = arena.take<double>(p.n()); });
  walk.walk();
  write_log_sum_exps(walk, negative_lse);
  partition_gradients(p.n(), positive, negative_lse, loss, row_weight, positive_gradient);
  write_gradients(walk, negative_lse, row_weight, g);
}

template <class T>
void gradient(const GatheredProblem& p, const UpstreamGradients& up, const DotGradients& g) {
  ExponentialWalk<T> walk{p, true};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  walk.walk();
  write_gradients(walk, up.negative_lse_value, up.negative_lse, g);
}

template <class T>
void softplus_sum(const GatheredProblem& p, double* value, const DotGradients& g) {
  QueryWalk<T, Sigmoids<T>> walk{p, g.queries != nullptr};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  walk.walk();
  *value = *g.bias = *g.scale = 0;
  for (int64_t unit = 0; unit < p.n() * walk.parts; unit++)
    *value += walk.results[unit].value, *g.bias += walk.results[unit].weight;
  if (g.queries) {
    walk.write_query_gradients(static_cast<T*>(g.queries), [&](int64_t, int) { return p.scale; });
    *g.scale = walk.sum_of_scale_parts();
  }
  if (g.candidates) write_candidate_gradients<T>(p, KnownSigmoids<T>{}, g.candidates);
}

GatheredKernels gathered_kernels() {
  return {
      [](const GatheredProblem& p, double clip, double* negative_lse) {
        const auto run = p.dtype == Dtype::kFloat64 ? log_sum_exp<double> : log_sum_exp<float>;
        run(p, clip, negative_lse);
      },
      [](const GatheredProblem& p, const PartitionWeights& loss, const double* positive, double* negative_lse,
         const DotGradients& g, double* positive_gradient) {
        const auto run = p.dtype == Dtype::kFloat64 ? fused<double> : fused<float>;
        run(p, loss, positive, negative_lse, g, positive_gradient);
      },
      [](const GatheredProblem& p, const UpstreamGradients& up, const DotGradients& g) {
        const auto run = p.dtype == Dtype::kFloat64 ? gradient<double> : gradient<float>;
        run(p, up, g);
      },
      [](const GatheredProblem& p, double* value, const DotGradients& g) {
        const auto run = p.dtype == Dtype::kFloat64 ? softplus_sum<double> : softplus_sum<float>;
        run(p, value, g);
      },
      [](const GatheredProblem& p, const Features& positives, const DotRanking& out) {
        const auto run = p.dtype == Dtype::kFloat64 ? gathered_ranking<double> : gathered_ranking<float>;
        run(p, positives, out);
      },
  };
}

}  // namespace MI_ISA
}  // namespace mi
