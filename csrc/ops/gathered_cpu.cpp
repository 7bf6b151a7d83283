// The gathered operators on the CPU.
#include <atomic>

#include "../cpu/kernels.h"
#include "../cpu/parallel.h"
#include "gathered_operators.h"

namespace mi {
namespace {

using GatheredArguments = GatheredArgumentsOf<GatheredProblem>;

constexpr int64_t kIndicesEach = 1 << 14;  // of a thread: fewer take less time than to start it

void check_index(const char* op, const int64_t* index, int64_t n, int64_t m, int64_t rows, int threads) {
  std::atomic<bool> inside = true;
  const int slots = slots_for(threads, n * m / kIndicesEach);
  for_slots(slots, [&](int s) {
    // The sign of index or of rows - 1 - index: comparisons of 64 bits would be made one by one.
    uint64_t outside = 0;
    const Range share = part_of(n * m, s, slots, 1);
    for (int64_t k = share.first; k < share.last; k++) {
      const uint64_t at = static_cast<uint64_t>(index[k]);
      outside |= at | (static_cast<uint64_t>(rows - 1) - at);
    }
    if (static_cast<int64_t>(outside) < 0) inside = false;
  });
  if (inside) return;
  int64_t k = 0;
  while (static_cast<uint64_t>(index[k]) < static_cast<uint64_t>(rows)) k++;
  check(false, op, "index[", k / m, ", ", k % m, "] = ", index[k], ", but the bank has ", rows,
        " rows: expected 0 <= index < ", rows);
}

// Values are checked too.
GatheredArguments gathered_arguments(const char* op, const Tensor& x, const Tensor& y, const OptionalTensor& index,
                                     const Tensor& scale) {
  GatheredArguments a = described_gathered<GatheredProblem>(op, x, y, index);
  GatheredProblem& p = a.problem;
  p.scale = scalar_value(op, "scale", scale);
  check(p.scale != 0 && p.scale - p.scale == 0, op, "scale must be finite and not 0, but is ", p.scale);
  p.threads = static_cast<int>(torch::stable::get_num_threads());
  if (p.index) check_index(op, p.index, p.n(), p.m(), p.candidates.rows, p.threads);
  return a;
}

struct Cpu {
  static GatheredArguments arguments(const char* op, const Tensor& x, const Tensor& y, const OptionalTensor& index,
                                     const Tensor& scale, const OptionalTensor& bias) {
    GatheredArguments a = gathered_arguments(op, x, y, index, scale);
    if (bias) a.problem.bias = scalar_value(op, "bias", *bias);
    return a;
  }

  static void log_sum_exp(const GatheredArguments& a, double clip, double* negative_lse) {
    cpu_kernels().gathered.log_sum_exp(a.problem, clip, negative_lse);
  }

  static void fused(const GatheredArguments& a, const PartitionWeights& weights, const double* positive,
                    double* negative_lse, const DotGradients& gradients, double* positive_gradient, double* loss) {
    cpu_kernels().gathered.fused(a.problem, weights, positive, negative_lse, gradients, positive_gradient);
    *loss = partition_loss(a.problem.n(), positive, negative_lse, weights);
  }

  static void gradient(const GatheredArguments& a, const UpstreamGradients& upstream, const DotGradients& gradients) {
    cpu_kernels().gathered.gradient(a.problem, upstream, gradients);
  }

  static void softplus_sum(const GatheredArguments& a, double* value, const DotGradients& gradients) {
    cpu_kernels().gathered.softplus_sum(a.problem, value, gradients);
  }

  static void ranking(const GatheredArguments& a, const Features& positives, const DotRanking& ranking) {
    cpu_kernels().gathered.ranking(a.problem, positives, ranking);
  }
};

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) { GatheredOperators<Cpu>::implement(library); }

}  // namespace
}  // namespace mi
