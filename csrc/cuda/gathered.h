// What the operators may call on a device: the walks over gathered scores, enqueued on a stream as those of kernels.h.
//
// A query reads each of its negatives once, for the score and, weighted at once, for the gradient of the query. The
// gradient of the negatives needs no further look at them: s_ik is kept, and
//   dy_ik = scale w_ik x_i,   w_ik = g_i e^{s_ik - a_i} (g = dL/da), or sigmoid(s_ik).
// Rows of a bank add up the pairs that point to them, in the order of the queries: sorting is left to the caller.
//
// An index outside the bank names no row: its score is NaN, and so are the row's log-sum-exp and every loss that needs
// it.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

#include "../core/params.h"

namespace mi::cuda {

// Pairs of a block of queries whose bank rows are sorted together: scratch stays small beside a large index.
constexpr int64_t kPairsSorted = int64_t{1} << 22;

// Of every walk below that the queries own.
size_t gathered_workspace(const DeviceGatheredProblem&, bool query_gradient);

// negative_lse [n], of scores clamped to [-clip, clip] where clip > 0.
cudaError_t gathered_lse(const DeviceGatheredProblem&, double clip, double* negative_lse, void* workspace,
                         cudaStream_t);

// Vectors [n] of a loss over log-partitions, and the loss.
struct GatheredLoss {
  const double* positive = nullptr;
  double* negative_lse = nullptr;
  double* positive_gradient = nullptr;
  double* row_weight = nullptr;  // dL/da_i
  double* loss = nullptr;
};

// Statistics and gradients of sum_i -log p_i, or of the global log-partition, and the loss itself.
// scores, here and below: Scalar [n, m], where they are kept; null: the negatives ask for no gradient.
cudaError_t gathered_fused(const DeviceGatheredProblem&, const PartitionWeights&, const GatheredLoss&,
                           const DotGradients&, void* scores, void* workspace, cudaStream_t);

// Gradients for any upstream gradient of negative_lse.
cudaError_t gathered_gradient(const DeviceGatheredProblem&, const UpstreamGradients&, const DotGradients&, void* scores,
                              void* workspace, cudaStream_t);

// value = sum_ik softplus(s_ik), and its gradients; that of scale is 0 where the queries ask for none.
cudaError_t gathered_softplus_sum(const DeviceGatheredProblem&, double* value, const DotGradients&, void* scores,
                                  void* workspace, cudaStream_t);

// Positives: one a query, in the queries' dtype; their scores are not written. One that is NaN ranks last.
size_t gathered_ranking_workspace(const DeviceGatheredProblem&);
cudaError_t gathered_ranking(const DeviceGatheredProblem&, const Features& positives, const DotRanking&,
                             void* workspace, cudaStream_t);

// Of scores that a walk has kept: w_ik = row_weight_i e^{s_ik - negative_lse_i}; negative_lse null: sigmoid(s_ik).
struct PairWeights {
  const void* scores = nullptr;
  const double* negative_lse = nullptr;
  const double* row_weight = nullptr;
};

// The gradient [n, m, d] of negatives that serve one query each.
size_t negatives_gradient_workspace(const DeviceGatheredProblem&);
cudaError_t negatives_gradient(const DeviceGatheredProblem&, const PairWeights&, void* gradient, void* workspace,
                               cudaStream_t);

// The pairs of queries first <= i < first + queries, sorted by bank row, and within a row as they came.
struct SortedPairs {
  int64_t first = 0, queries = 0;
  const int32_t* row = nullptr;   // [queries m] keys in order
  const int64_t* pair = nullptr;  // [queries m] where they stood
};

// keys [queries m]: the bank rows of `pairs`, V for an index outside.
cudaError_t bank_keys(const DeviceGatheredProblem&, const SortedPairs& pairs, int32_t* keys, cudaStream_t);

// Adds the pairs' part to the bank's gradient [V, d]; the first block of queries clears it.
size_t bank_gradient_workspace(const DeviceGatheredProblem&, const SortedPairs&);
cudaError_t bank_gradient(const DeviceGatheredProblem&, const PairWeights&, const SortedPairs&, void* gradient,
                          void* workspace, cudaStream_t);

}  // namespace mi::cuda
