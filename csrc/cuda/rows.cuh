// What is O(n): partial results of rows joined, in double and in a fixed order.
#pragma once
#include "../core/log_sum_exp.h"
#include "../core/partition.h"
#include "walk.h"

namespace mi::cuda {

constexpr int kRowThreads = 128;
constexpr int kBlockThreads = 1024;  // of the kernels that are one block

__device__ inline int64_t global_thread() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

// The same rows, 16 bytes aligned.
template <class Word>
__global__ void copy_rows(const Word* from, int64_t from_pitch, int64_t rows, int64_t width, Word* to,
                          int64_t to_pitch) {
  const int64_t k = global_thread();
  if (k < rows * width) to[k / width * to_pitch + k % width] = from[k / width * from_pitch + k % width];
}

template <class Value>
__global__ void fill(Value* out, int64_t count, Value value) {
  const int64_t k = global_thread();
  if (k < count) out[k] = value;
}

template <class Scalar>
__global__ void scale_log_weights(const double* nats, int64_t count, Scalar* out) {
  const int64_t k = global_thread();
  if (k < count) out[k] = static_cast<Scalar>(nats[k] * kLog2E);
}

// LSE of a row, log2 units, from its parts [parts][rows].
template <class Scalar>
__device__ LogSumExp2 joined(const RowPart<Scalar>* parts, int count, int64_t rows, int64_t row) {
  LogSumExp2 total;
  for (int k = 0; k < count; k++) {
    const RowPart<Scalar> part = parts[k * rows + row];
    total = merge(total, {static_cast<double>(part.reference), static_cast<double>(part.sum)});
  }
  return total;
}

template <class Scalar>
__global__ void join_rows(const void* parts, int count, int64_t rows, double* lse) {
  const int64_t row = global_thread();
  if (row < rows) lse[row] = log2_value(joined(static_cast<const RowPart<Scalar>*>(parts), count, rows, row)) * kLn2;
}

// `value` of every thread of the one block, joined pairwise; the same result for all.
template <class Value, class Join>
__device__ Value join_block(const Value& value, Join&& join) {
  __shared__ __align__(16) unsigned char bytes[kBlockThreads * sizeof(Value)];
  Value* shared = reinterpret_cast<Value*>(bytes);
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kBlockThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] = join(shared[threadIdx.x], shared[threadIdx.x + half]);
    __syncthreads();
  }
  return shared[0];
}

template <class Value>
__global__ void __launch_bounds__(kBlockThreads) sum_values(const Value* values, int64_t count, Value* out) {
  Value sum = 0;
  for (int64_t k = threadIdx.x; k < count; k += kBlockThreads) sum += values[k];
  sum = join_block(sum, [](Value a, Value b) { return a + b; });
  if (threadIdx.x == 0) *out = sum;
}

// Loss and dL/dz_i, dL/da_i from the statistics of all rows, as partition_loss. positive null: there are none.
template <class Value>
__global__ void __launch_bounds__(kBlockThreads)
    partition(int64_t n, const Value* positive, const Value* negative_lse, PartitionWeights w, Value* loss,
              Value* positive_gradient, Value* row_weight) {
  struct Sum {
    double rows = 0;
    LogSumExp2 total;
    double nans = 0;
  };
  Sum sum;
  for (int64_t i = threadIdx.x; i < n; i += kBlockThreads) {
    const double z = positive ? positive[i] : -kInfinity, row = row_log_partition(z, negative_lse[i], w);
    sum.rows += row_cross_entropy(z, negative_lse[i], w);
    sum.nans += row != row;
    if (row > -kInfinity) sum.total = merge(sum.total, {row * kLog2E, 1});
  }
  sum = join_block(
      sum, [](const Sum& a, const Sum& b) { return Sum{a.rows + b.rows, merge(a.total, b.total), a.nans + b.nans}; });
  const double total = sum.nans > 0 ? kInfinity - kInfinity : log2_value(sum.total) * kLn2;
  if (threadIdx.x == 0) *loss = w.partition == Partition::kRows ? sum.rows : total;
  for (int64_t i = threadIdx.x; i < n; i += kBlockThreads) {
    const double z = positive ? positive[i] : -kInfinity;
    const PartitionGradient g = partition_gradient(z, negative_lse[i], total, w);
    positive_gradient[i] = g.positive;
    row_weight[i] = g.negative_lse;
  }
}

}  // namespace mi::cuda
