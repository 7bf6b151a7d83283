// What is done with a block of finished scores, whatever the critic: exclusions, log-sum-exps of rows and columns,
// softplus sums, and the weights of a gradient. Beside the hidden units of a pair these passes cost little.
#pragma once
#include "../core/log_sum_exp.h"
#include "joint_block.h"
#include "logistic.cuh"
#include "rows.cuh"
#include "tile.cuh"

namespace mi::cuda {

constexpr int kRowsTogether = kRowThreads / 32;  // a warp for each
constexpr int kLaneColumns = 8;                  // of a row that a thread holds
constexpr int kPartColumns = 32 * kLaneColumns;  // of a part of a row
constexpr int kPartRows = 32;                    // of a part of a column
constexpr int kWeightRows = 8;                   // that a thread weighs

// Scores become those of negatives: bias, clip, -inf where the pair is none, log-weights. Nats.
template <class Scalar>
struct Negatives {
  Exclusions exclusions;
  const double* bias = nullptr;
  double clip = 0;          // 0: none
  bool weights_add = true;  // v_j is added; otherwise the reduction multiplies by e^{v_j}

  struct Row {
    int64_t target, label;
  };
  __device__ __forceinline__ Row row(int64_t i) const {
    return {exclusions.target ? exclusions.target[i] : -1, exclusions.query_label ? exclusions.query_label[i] : 0};
  }
  __device__ __forceinline__ Scalar operator()(const Row& row, int64_t j, Scalar s) const {
    const Scalar tau = static_cast<Scalar>(clip);
    if (bias) s += static_cast<Scalar>(*bias);
    if (clip > 0) s = s > tau ? tau : s < -tau ? -tau : s;
    bool gone = j == row.target || (exclusions.query_label && row.label == exclusions.candidate_label[j]);
    if (exclusions.candidate_log_weight) {
      const double v = exclusions.candidate_log_weight[j];
      gone |= v == -kInfinity;
      if (weights_add && s != -kInfinity) s += static_cast<Scalar>(v);  // no -inf + inf
    }
    return gone ? static_cast<Scalar>(-kInfinity) : s;
  }
};

template <class Scalar>
__device__ __forceinline__ Scalar* pair_row(const PairBlock& block, int64_t row) {
  return static_cast<Scalar*>(block.values) + row * block.pitch;
}

// The reference, log2 units, for scores of which `highest` is the largest; finite, as RowLogSumExp's.
template <class Scalar>
__device__ __forceinline__ Scalar reference_for(Scalar highest) {
  return fmin(fmax(highest * static_cast<Scalar>(kLog2E), -kLargest<Scalar>), kLargest<Scalar>);
}

template <class Scalar>
__device__ __forceinline__ Scalar exponential(Scalar score, Scalar reference) {
  return exp2_of(fma(score, static_cast<Scalar>(kLog2E), -reference));
}

// parts [parts of a row][rows of the block]; `positive` where a target lies in the block, unless null.
template <class Scalar>
__global__ void __launch_bounds__(kRowThreads)
    row_log_sum_exps(PairBlock block, Negatives<Scalar> negatives, double* positive, RowPart<Scalar>* parts) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRowsTogether + threadIdx.x / 32;
  if (r >= block.rows) return;
  const int64_t i = block.first_row + r, first = static_cast<int64_t>(blockIdx.y) * kPartColumns + threadIdx.x % 32;
  const auto row = negatives.row(i);
  const Scalar* scores = pair_row<Scalar>(block, r);
  Scalar s[kLaneColumns], highest = static_cast<Scalar>(-kInfinity), sum = 0;
#pragma unroll
  for (int q = 0; q < kLaneColumns; q++) {
    const int64_t c = first + 32 * q, j = block.first_column + c;
    s[q] = static_cast<Scalar>(-kInfinity);
    if (c >= block.columns) continue;
    const Scalar score = scores[c];
    if (positive && j == row.target) positive[i] = score;
    s[q] = negatives(row, j, score);
    highest = fmax(highest, s[q]);
  }
  for (int mask = 16; mask > 0; mask /= 2) highest = fmax(highest, __shfl_xor_sync(~0u, highest, mask));
  const Scalar reference = reference_for(highest);
#pragma unroll
  for (int q = 0; q < kLaneColumns; q++) sum += exponential(s[q], reference);
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
  if (threadIdx.x % 32 == 0) parts[blockIdx.y * block.rows + r] = {reference, sum};
}

// parts [parts of a column][columns of the block].
template <class Scalar>
__global__ void __launch_bounds__(kRowThreads)
    column_log_sum_exps(PairBlock block, Negatives<Scalar> negatives, RowPart<Scalar>* parts) {
  const int64_t c = global_thread(), first = static_cast<int64_t>(blockIdx.y) * kPartRows;
  if (c >= block.columns) return;
  Scalar s[kPartRows], highest = static_cast<Scalar>(-kInfinity), sum = 0;
#pragma unroll
  for (int r = 0; r < kPartRows; r++) {
    s[r] = static_cast<Scalar>(-kInfinity);
    if (first + r >= block.rows) continue;
    s[r] = negatives(negatives.row(block.first_row + first + r), block.first_column + c,
                     pair_row<Scalar>(block, first + r)[c]);
    highest = fmax(highest, s[r]);
  }
  const Scalar reference = reference_for(highest);
#pragma unroll
  for (int r = 0; r < kPartRows; r++) sum += exponential(s[r], reference);
  parts[blockIdx.y * block.columns + c] = {reference, sum};
}

// totals[row] += its parts [count][rows], as log-sum-exps.
template <class Scalar>
__global__ void add_log_sum_exps(const RowPart<Scalar>* parts, int count, int64_t rows, RowPart<double>* totals) {
  const int64_t row = global_thread();
  if (row >= rows) return;
  const LogSumExp2 total = merge({totals[row].reference, totals[row].sum}, joined(parts, count, rows, row));
  totals[row] = {total.reference, total.sum};
}

// A log-sum-exp's weight of a score: g e^{s - lse} = factor 2^(s log2 e - reference).
template <class Scalar>
struct alignas(2 * sizeof(Scalar)) Weight {
  Scalar reference, factor;
};

// What the reference loses in rounding is part of the factor.
template <class Scalar>
__global__ void make_weights(const double* lse, const double* gradient, int64_t count, Weight<Scalar>* out) {
  const int64_t k = global_thread();
  if (k >= count) return;
  const double reference = lse[k] * kLog2E, g = gradient[k];
  const double rest = reference - static_cast<double>(static_cast<Scalar>(reference));
  if (lse[k] == -kInfinity)
    out[k] = {kLargest<Scalar>, Scalar(0)};
  else
    out[k] = {static_cast<Scalar>(reference), static_cast<Scalar>(g == 0 ? 0 : g * exp2(rest == rest ? -rest : 0))};
}

// Scores become G_ij = ga_i e^{s_ij - a_i} + gc_j e^{s_ij - c_j}, and the positive's own gradient at a target. Null: 0.
template <class Scalar>
__global__ void __launch_bounds__(kRowThreads)
    weigh(PairBlock block, Negatives<Scalar> negatives, const Weight<Scalar>* rows, const Weight<Scalar>* columns,
          const double* positive) {
  const int64_t c = global_thread(), j = block.first_column + c;
  if (c >= block.columns) return;
  const Weight<Scalar> column = columns ? columns[j] : Weight<Scalar>{};
#pragma unroll
  for (int k = 0; k < kWeightRows; k++) {
    const int64_t r = static_cast<int64_t>(blockIdx.y) * kWeightRows + k, i = block.first_row + r;
    if (r >= block.rows) return;
    const auto row = negatives.row(i);
    Scalar& at = pair_row<Scalar>(block, r)[c];
    const Scalar s = negatives(row, j, at);
    Scalar weight = 0;
    if (rows) weight = rows[i].factor * exponential(s, rows[i].reference);
    if (columns) weight += column.factor * exponential(s, column.reference);
    at = j == row.target ? (positive ? static_cast<Scalar>(positive[i]) : Scalar(0)) : weight;
  }
}

// e^{v_j}.
template <class Scalar>
__global__ void make_factors(const double* log_weight, int64_t count, Scalar* out) {
  const int64_t j = global_thread();
  if (j < count) out[j] = static_cast<Scalar>(exp(log_weight[j]));
}

// parts [parts of a row][rows of the block]: sums of u_j softplus(s_ij) and of its derivative, u_j sigmoid(s_ij), which
// scores become if `keep`. factor: u_j, null for 1.
template <class Scalar>
__global__ void __launch_bounds__(kRowThreads)
    row_softplus_sums(PairBlock block, Negatives<Scalar> negatives, const Scalar* factor, bool keep,
                      RowPart<Scalar>* parts) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRowsTogether + threadIdx.x / 32;
  if (r >= block.rows) return;
  const auto row = negatives.row(block.first_row + r);
  Scalar* scores = pair_row<Scalar>(block, r);
  Scalar value = 0, weight = 0;
#pragma unroll
  for (int q = 0; q < kLaneColumns; q++) {
    const int64_t c = static_cast<int64_t>(blockIdx.y) * kPartColumns + threadIdx.x % 32 + 32 * q;
    if (c >= block.columns) break;
    const int64_t j = block.first_column + c;
    const Scalar s = negatives(row, j, scores[c]), u = factor ? factor[j] : Scalar(1);
    const auto of = logistic(s, Scalar(1), exponential(-fabs(s), Scalar(0)));
    value += u == 0 ? Scalar(0) : u * of.softplus;
    weight += u == 0 ? Scalar(0) : u * of.sigmoid;
    if (keep) scores[c] = u == 0 ? Scalar(0) : u * of.sigmoid;
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    value += __shfl_xor_sync(~0u, value, mask);
    weight += __shfl_xor_sync(~0u, weight, mask);
  }
  if (threadIdx.x % 32 == 0) parts[blockIdx.y * block.rows + r] = {value, weight};
}

// totals[row] += its parts [count][rows], both of their numbers.
template <class Scalar>
__global__ void add_sums(const RowPart<Scalar>* parts, int count, int64_t rows, RowPart<double>* totals) {
  const int64_t row = global_thread();
  if (row >= rows) return;
  for (int k = 0; k < count; k++) {
    totals[row].reference += parts[k * rows + row].reference;
    totals[row].sum += parts[k * rows + row].sum;
  }
}

template <class Value>
__global__ void __launch_bounds__(kBlockThreads)
    sum_pairs(const RowPart<Value>* rows, int64_t count, Value* first, Value* second) {
  RowPart<Value> sum{0, 0};
  for (int64_t k = threadIdx.x; k < count; k += kBlockThreads)
    sum = {sum.reference + rows[k].reference, sum.sum + rows[k].sum};
  sum = join_block(
      sum, [](RowPart<Value> a, RowPart<Value> b) { return RowPart<Value>{a.reference + b.reference, a.sum + b.sum}; });
  if (threadIdx.x == 0) *first = sum.reference, *second = sum.sum;
}

}  // namespace mi::cuda
