// The gradient of the negatives, once their scores and the weights of the rows are known.
#include <limits>

#include "gathered.h"
#include "gathered_problem.h"

namespace mi::cuda {
namespace {

// w_ik = dL/da_i e^{s_ik - a_i}, or sigmoid(s_ik) where there is no lse; the factor scale of dy in it.
template <class Scalar>
__global__ void pair_terms(const double* lse, const double* row_weight, const double* scale, int64_t count,
                           Scalar highest, PairTerm<Scalar>* out) {
  const int64_t k = global_thread();
  if (k >= count) return;
  const double weight = lse ? row_weight[k] : 1, lse2 = lse ? lse[k] * kLog2E : 0;
  const bool none = lse2 == -kInfinity;
  out[k] = {none ? highest : static_cast<Scalar>(lse2), none ? Scalar(0) : static_cast<Scalar>(weight * *scale)};
}

__global__ void find_keys(const int64_t* index, int64_t count, int64_t rows, int32_t* out) {
  const int64_t k = global_thread();
  if (k >= count) return;
  const bool inside = static_cast<uint64_t>(index[k]) < static_cast<uint64_t>(rows);
  out[k] = static_cast<int32_t>(inside ? index[k] : rows);
}

// Weights of the pairs of some queries, and who gets them.
struct PairPlan {
  const DeviceGatheredProblem& p;
  int64_t first, queries;
  void* terms;  // PairTerm [queries]

  PairPlan(const DeviceGatheredProblem& p, int64_t first, int64_t queries, Arena& arena)
      : p(p), first(first), queries(queries), terms(arena.take_bytes(queries * 2 * scalar_bytes())) {}

  int64_t scalar_bytes() const { return p.dtype == Dtype::kFloat64 ? 8 : 4; }

  PairWalk walk(Queue& queue, const PairWeights& weights, void* out) const {
    const bool softplus = !weights.negative_lse;
    with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
      queue.each(queries, pair_terms<Scalar>, softplus ? nullptr : weights.negative_lse + first,
                 softplus ? nullptr : weights.row_weight + first, p.scale, queries, std::numeric_limits<Scalar>::max(),
                 static_cast<PairTerm<Scalar>*>(terms));
    });
    Features x = p.queries;
    x.data = static_cast<const char*>(x.data) + first * x.pitch * element_bytes(p.dtype);
    PairWalk walk;
    walk.queries = gathered_rows(x, p.dim, p.dtype);
    walk.pairs = queries * p.m(), walk.m = p.m();
    walk.scores = static_cast<const char*>(weights.scores) + first * p.m() * scalar_bytes();
    walk.terms = terms;
    walk.softplus = softplus;
    walk.dim = static_cast<int>(p.dim), walk.row_bytes = static_cast<int>(p.dim * element_bytes(p.dtype));
    walk.out = out;
    return walk;
  }
};

struct BankPlan {
  PairPlan pairs;
  void* heads;  // Scalar [chunks][d]

  BankPlan(const DeviceGatheredProblem& p, const SortedPairs& sorted, Arena& arena)
      : pairs(p, sorted.first, sorted.queries, arena),
        heads(arena.take_bytes((sorted.queries * p.m() + kBankChunk - 1) / kBankChunk * p.dim * pairs.scalar_bytes())) {
  }
};

}  // namespace

size_t negatives_gradient_workspace(const DeviceGatheredProblem& p) {
  Arena arena;
  PairPlan(p, 0, p.n(), arena);
  return arena.used;
}

cudaError_t negatives_gradient(const DeviceGatheredProblem& p, const PairWeights& weights, void* gradient,
                               void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const PairPlan plan(p, 0, p.n(), arena);
  Queue queue{stream};
  const PairWalk walk = plan.walk(queue, weights, gradient);
  if (walk.pairs > 0) queue.run([&] { return gathered_kernels(p.dtype).negatives(walk, stream); });
  return queue.error;
}

cudaError_t bank_keys(const DeviceGatheredProblem& p, const SortedPairs& pairs, int32_t* keys, cudaStream_t stream) {
  Queue queue{stream};
  const int64_t count = pairs.queries * p.m();
  queue.each(count, find_keys, p.index + pairs.first * p.m(), count, p.candidates.rows, keys);
  return queue.error;
}

size_t bank_gradient_workspace(const DeviceGatheredProblem& p, const SortedPairs& sorted) {
  Arena arena;
  BankPlan(p, sorted, arena);
  return arena.used;
}

cudaError_t bank_gradient(const DeviceGatheredProblem& p, const PairWeights& weights, const SortedPairs& sorted,
                          void* gradient, void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const BankPlan plan(p, sorted, arena);
  Queue queue{stream};
  if (sorted.first == 0)
    with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
      const int64_t count = p.candidates.rows * p.dim;
      queue.each(count, fill<Scalar>, static_cast<Scalar*>(gradient), count, Scalar(0));
    });
  PairWalk walk = plan.pairs.walk(queue, weights, gradient);
  walk.rows = static_cast<int32_t>(p.candidates.rows);
  walk.row = sorted.row, walk.pair = sorted.pair;
  walk.lanes = lanes_for(walk.row_bytes);
  walk.heads = plan.heads;
  if (walk.pairs > 0) queue.run([&] { return gathered_kernels(p.dtype).bank(walk, stream); });
  return queue.error;
}

}  // namespace mi::cuda
