// The walks over gathered scores and the table of them.
#include "families-inl.h"
#include "gathered-dense-inl.h"
#include "gathered-ranking-inl.h"
#include "gathered_candidates-inl.h"

namespace mi {
namespace MI_ISA {

// What a call is asked for beside the sums of its weights.
template <class T>
struct Asked {
  bool products = false;       // of the weights with the negatives, for dx
  double clip = 0;             // of the scores
  bool bank = false;           // the bank's gradient will be asked for,
  T* bank_gradient = nullptr;  // and at once: by a dense walk, for weights that need no sum
};

// use(sums, dense) with the sums of all queries; dense: by a dense walk.
template <class Weights, class T, class Use>
void with_sums(const GatheredProblem& p, const Asked<T>& asked, Use&& use) {
  if (dense_pays<T>(p, asked.bank)) {
    DenseWalk<T, typename LanesOf<Weights>::Lanes> walk{p, asked.products, asked.bank_gradient, asked.clip};
    QuerySums<T, typename Weights::Result> sums{p, asked.products};
    Workspace workspace([&](Arena& arena) { walk.place(arena), sums.place(arena); });
    if (sum_densely(walk, sums)) return use(sums, true);
  }
  QueryWalk<T, Weights> walk{p, asked.products, asked.clip};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  walk.walk();
  use(walk.sums, false);
}

template <class T>
using ExponentialSums = QuerySums<T, LogSumExp2>;

template <class T>
void write_log_sum_exps(const ExponentialSums<T>& sums, double* negative_lse) {
  for (int64_t i = 0; i < sums.p.n(); i++) negative_lse[i] = log2_value(sums.row(i)) * kLn2;
}

template <class T>
void log_sum_exp(const GatheredProblem& p, double clip, double* negative_lse) {
  with_sums<LazyExponentials<T>, T>(
      p, {false, clip}, [&](const ExponentialSums<T>& sums, bool) { write_log_sum_exps(sums, negative_lse); });
}

// dy for weights w of gathered scores.
template <class T, class Weights>
void write_candidate_gradients(const GatheredProblem& p, const Weights& weights, void* out) {
  CandidateWalk<T, Weights> walk{p, weights, static_cast<T*>(out)};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  walk.walk();
}

template <class T>
void write_candidate_gradients(const GatheredProblem& p, const double* negative_lse, const double* row_weight,
                               bool dense, void* out) {
  KnownExponentials<T> weights;
  Workspace workspace([&](Arena& arena) { weights.place(p, arena); });
  weights.fill(p, negative_lse, row_weight);
  if (!dense || !multiply_densely(p, weights, static_cast<T*>(out))) write_candidate_gradients<T>(p, weights, out);
}

// dx and dscale, then dy, for dL/da_i = row_weight_i.
template <class T>
void write_gradients(const ExponentialSums<T>& sums, bool dense, const double* negative_lse, const double* row_weight,
                     const DotGradients& g) {
  const GatheredProblem& p = sums.p;
  sums.write_query_gradients(static_cast<T*>(g.queries), [&](int64_t i, int part) {
    const double lse2 = log2_value(sums.row(i));
    if (row_weight[i] == 0 || lse2 == -kInfinity) return 0.0;
    return p.scale * row_weight[i] * std::exp2(sums.results[i * sums.parts + part].reference - lse2);
  });
  *g.scale = sums.sum_of_scale_parts();
  if (g.candidates) write_candidate_gradients<T>(p, negative_lse, row_weight, dense, g.candidates);
}

template <class T>
void fused(const GatheredProblem& p, const PartitionWeights& loss, const double* positive, double* negative_lse,
           const DotGradients& g, double* positive_gradient) {
  with_sums<LazyExponentials<T>, T>(
      p, {true, 0, g.candidates != nullptr}, [&](const ExponentialSums<T>& sums, bool dense) {
        double* row_weight = nullptr;
        Workspace workspace([&](Arena& arena) { row_weight = arena.take<double>(p.n()); });
        write_log_sum_exps(sums, negative_lse);
        partition_gradients(p.n(), positive, negative_lse, loss, row_weight, positive_gradient);
        write_gradients(sums, dense, negative_lse, row_weight, g);
      });
}

template <class T>
void gradient(const GatheredProblem& p, const UpstreamGradients& up, const DotGradients& g) {
  with_sums<LazyExponentials<T>, T>(p, {true, 0, g.candidates != nullptr},
                                    [&](const ExponentialSums<T>& sums, bool dense) {
                                      write_gradients(sums, dense, up.negative_lse_value, up.negative_lse, g);
                                    });
}

template <class T>
void softplus_sum(const GatheredProblem& p, double* value, const DotGradients& g) {
  const Asked<T> asked{g.queries != nullptr, 0, g.candidates != nullptr, static_cast<T*>(g.candidates)};
  with_sums<Sigmoids<T>>(p, asked, [&](const QuerySums<T, SoftplusSums>& sums, bool dense) {
    *value = *g.bias = *g.scale = 0;
    for (int64_t unit = 0; unit < p.n() * sums.parts; unit++)
      *value += sums.results[unit].value, *g.bias += sums.results[unit].weight;
    if (g.queries) {
      sums.write_query_gradients(static_cast<T*>(g.queries), [&](int64_t, int) { return p.scale; });
      *g.scale = sums.sum_of_scale_parts();
    }
    if (g.candidates && !dense) write_candidate_gradients<T>(p, KnownSigmoids<T>{}, g.candidates);
  });
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
