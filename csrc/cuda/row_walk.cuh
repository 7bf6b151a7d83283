// A walk that reduces the rows of one side to parts, and their sums.
#pragma once
#include "enqueue.cuh"

namespace mi::cuda {

enum class Reduction { kLogSumExp, kSoftplus };

struct RowWalk {
  const Sides& sides;
  const ForwardKernel& kernel;
  bool queries_own;
  Splits splits;
  int64_t rows;
  int count;  // parts of each row
  void* parts;

  RowWalk(const Sides& sides, Reduction reduction, bool queries_own, Arena& arena)
      : sides(sides),
        kernel(reduction == Reduction::kSoftplus ? softplus_kernel(sides.p) : log_sum_exp_kernel(sides.p)),
        queries_own(queries_own),
        splits(sides.splits(queries_own, kernel.shape)),
        rows(queries_own ? sides.p.n() : sides.p.m()),
        count(splits.count * kernel.shape.parts),
        parts(arena.take_bytes(rows * count * 2 * pairwise_kernels(sides.p.dtype).scalar_bytes)) {}

  ForwardParams params(double* positive) const {
    ForwardParams params;
    params.walk = sides.walk(queries_own, splits);
    params.positive = positive;
    params.parts = parts;
    return params;
  }
  void run(Queue& queue, const ForwardParams& params) const {
    if (rows > 0) queue.run([&] { return kernel.run(params, splits.count, queue.stream); });
  }
};

// NaN where no walk will find a positive: beside a target that names no candidate.
inline void clear_positives(Queue& queue, double* positive, int64_t n) {
  if (positive) queue.each(n, fill<double>, positive, n, __builtin_nan(""));
}

}  // namespace mi::cuda
