// The walks that the queries own, and what is O(n) around them.
#include "gathered.h"

#include "gathered_problem.h"
#include "mma.cuh"
#include "products.cuh"

namespace mi::cuda {
namespace {

// The gradient of the queries as a walk leaves it, by parts.
struct QueryProducts {
  Features queries;
  Dtype dtype;
  int64_t dim;
  const void* products;  // Scalar [parts][n][product_pitch]
  const void* results;   // RowPart [parts][n]
  int64_t parts;
  const double* scale;
  const double* negative_lse;  // null: of a softplus sum, whose weights are what they are
  const double* row_weight;    // dL/da_i
  void* out;                   // Scalar [n][d]
  double* scale_part;          // [blocks]
};

// dx_i = scale g_i sum over parts of 2^(r - lse) products, dscale = sum_i <x_i, dx_i> / scale. A thread for each
// element.
template <class Scalar>
__global__ void __launch_bounds__(kRowThreads, 8) finish_queries(QueryProducts p) {
  __shared__ double of_warp[kRowThreads / 32];
  const int64_t n = p.queries.rows, k = global_thread();
  double inner = 0;
  if (k < n * p.dim) {
    const int64_t row = k / p.dim, column = k % p.dim, pitch = product_pitch(p.dim);
    const double lse2 = p.negative_lse ? p.negative_lse[row] * kLog2E : 0;
    double sum = 0;
#pragma unroll 4
    for (int64_t part = 0; part < p.parts; part++) {
      const Scalar product = static_cast<const Scalar*>(p.products)[(part * n + row) * pitch + column];
      const Scalar above =
          static_cast<Scalar>(static_cast<const RowPart<Scalar>*>(p.results)[part * n + row].reference - lse2);
      sum += product * (!p.negative_lse ? Scalar(1) : lse2 == -kInfinity ? Scalar(0) : exp2_of(above));
    }
    if (p.row_weight) sum *= p.row_weight[row];
    static_cast<Scalar*>(p.out)[k] = static_cast<Scalar>(*p.scale * sum);
    inner = element(p.queries.data, p.dtype, row * p.queries.pitch + column) * sum;
  }
  for (int mask = 16; mask > 0; mask /= 2) inner += __shfl_xor_sync(~0u, inner, mask);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = inner;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < kRowThreads / 32; w++) inner += of_warp[w];
  p.scale_part[blockIdx.x] = inner;
}

// value = sum of all parts, weight = that of their derivatives.
template <class Scalar>
__global__ void __launch_bounds__(kBlockThreads)
    sum_results(const void* results, int64_t count, double* value, double* weight) {
  RowPart<double> sum{0, 0};
  for (int64_t k = threadIdx.x; k < count; k += kBlockThreads) {
    const RowPart<Scalar> part = static_cast<const RowPart<Scalar>*>(results)[k];
    sum = {sum.reference + part.reference, sum.sum + part.sum};
  }
  sum = join_block(sum, [](RowPart<double> a, RowPart<double> b) {
    return RowPart<double>{a.reference + b.reference, a.sum + b.sum};
  });
  if (threadIdx.x == 0) *value = sum.reference, *weight = sum.sum;
}

struct QueryWalk {
  const DeviceGatheredProblem& p;
  GatheredParts parts;
  void* results;                 // RowPart [parts][n]
  void* products = nullptr;      // Scalar [parts][n][product_pitch]
  double* scale_part = nullptr;  // [blocks]

  QueryWalk(const DeviceGatheredProblem& p, bool gradient, Arena& arena) : p(p), parts(p) {
    const int64_t scalar_bytes = p.dtype == Dtype::kFloat64 ? 8 : 4;
    results = arena.take_bytes(parts.count * p.n() * 2 * scalar_bytes);
    if (!gradient) return;
    products = arena.take_bytes(parts.count * p.n() * product_pitch(p.dim) * scalar_bytes);
    scale_part = arena.take<double>(blocks());
  }
  int64_t blocks() const { return (p.n() * p.dim + kRowThreads - 1) / kRowThreads; }

  void run(Queue& queue, bool softplus, double clip, void* scores) const {
    if (p.n() == 0) return;
    GatheredWalk walk = walk_over(p);
    walk.clip = clip;
    walk.parts = parts.count, walk.part_size = parts.size;
    walk.scores = scores, walk.results = results, walk.products = products;
    queue.run([&] { return gathered_kernels(p.dtype).queries(softplus, walk, queue.stream); });
  }
  void join(Queue& queue, double* negative_lse) const {
    with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
      queue.each(p.n(), join_rows<Scalar>, results, static_cast<int>(parts.count), p.n(), negative_lse);
    });
  }
  void finish(Queue& queue, const double* negative_lse, const double* row_weight, const DotGradients& g) const {
    const QueryProducts params{p.queries, p.dtype,      p.dim,      products,  results,   parts.count,
                               p.scale,   negative_lse, row_weight, g.queries, scale_part};
    with_scalar(p.dtype, [&]<class Scalar>(Scalar) { queue.each(p.n() * p.dim, finish_queries<Scalar>, params); });
    queue.one_block(sum_values<double>, static_cast<const double*>(scale_part), blocks(), g.scale);
  }
};

}  // namespace

size_t gathered_workspace(const DeviceGatheredProblem& p, bool query_gradient) {
  Arena arena;
  QueryWalk(p, query_gradient, arena);
  return arena.used;
}

cudaError_t gathered_lse(const DeviceGatheredProblem& p, double clip, double* negative_lse, void* workspace,
                         cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const QueryWalk walk(p, false, arena);
  Queue queue{stream};
  walk.run(queue, false, clip, nullptr);
  walk.join(queue, negative_lse);
  return queue.error;
}

cudaError_t gathered_fused(const DeviceGatheredProblem& p, const PartitionWeights& weights, const GatheredLoss& l,
                           const DotGradients& g, void* scores, void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const QueryWalk walk(p, true, arena);
  Queue queue{stream};
  walk.run(queue, false, 0, scores);
  walk.join(queue, l.negative_lse);
  queue.one_block(partition<double>, p.n(), l.positive, static_cast<const double*>(l.negative_lse), weights, l.loss,
                  l.positive_gradient, l.row_weight);
  walk.finish(queue, l.negative_lse, l.row_weight, g);
  return queue.error;
}

cudaError_t gathered_gradient(const DeviceGatheredProblem& p, const UpstreamGradients& up, const DotGradients& g,
                              void* scores, void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const QueryWalk walk(p, true, arena);
  Queue queue{stream};
  walk.run(queue, false, 0, scores);
  walk.finish(queue, up.negative_lse_value, up.negative_lse, g);
  return queue.error;
}

cudaError_t gathered_softplus_sum(const DeviceGatheredProblem& p, double* value, const DotGradients& g, void* scores,
                                  void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const QueryWalk walk(p, g.queries != nullptr, arena);
  Queue queue{stream};
  walk.run(queue, true, 0, scores);
  with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
    queue.one_block(sum_results<Scalar>, static_cast<const void*>(walk.results), walk.parts.count * p.n(), value,
                    g.bias);
  });
  if (g.queries)
    walk.finish(queue, nullptr, nullptr, g);
  else
    queue.each(1, fill<double>, g.scale, int64_t{1}, 0.0);
  return queue.error;
}

}  // namespace mi::cuda
