// The gradient of the negatives: dy_ik = w_ik x_i with weights from scores that are known. Order and sums depend on the
// index alone.
#pragma once
#include "gathered_rows.cuh"
#include "logistic.cuh"

namespace mi::cuda {

template <class Scalar>
__device__ __forceinline__ Scalar weight_of_pair(const PairWalk& p, int64_t pair, int64_t query) {
  const Scalar s = static_cast<const Scalar*>(p.scores)[pair];
  const PairTerm<Scalar> term = static_cast<const PairTerm<Scalar>*>(p.terms)[query];
  return term.factor * (p.softplus ? logistic(s).sigmoid : exp2_of(s - term.reference));
}

constexpr int kPairsOfWarp = 8;

// Of negatives that serve one query each: a warp writes the gradients of some neighbouring pairs, as one array.
template <class Element>
__global__ void __launch_bounds__(kGatheredThreads) gathered_negatives(const __grid_constant__ PairWalk p) {
  using Scalar = typename ScalarOf<Element>::type;
  const int64_t first = global_thread() / 32 * kPairsOfWarp;
  if (first >= p.pairs) return;
  const int lane = threadIdx.x % 32, pairs = static_cast<int>(min(p.pairs - first, int64_t{kPairsOfWarp}));
  const int64_t query_of_lane = (first + min(lane, pairs - 1)) / p.m;
  const Scalar weight_of_lane = lane < pairs ? weight_of_pair<Scalar>(p, first + lane, query_of_lane) : Scalar(0);
  Scalar* out = static_cast<Scalar*>(p.out) + first * p.dim;
  int pair = lane / p.dim, column = lane % p.dim;
  for (int k = lane; k - lane < pairs * p.dim; k += 32) {
    const Scalar weight = __shfl_sync(~0u, weight_of_lane, pair);
    const int64_t query = __shfl_sync(~0u, query_of_lane, pair);
    if (k < pairs * p.dim)
      out[k] = weight * feature(reinterpret_cast<const Element*>(p.queries.data + query * p.queries.pitch)[column]);
    pair += 32 / p.dim, column += 32 % p.dim;
    if (column >= p.dim) column -= p.dim, pair++;
  }
}

// Pairs sorted by bank row are cut into chunks, a team of lanes each. Of every run of one row, the chunk that it begins
// in adds to the gradient; what other chunks have of it, at their heads, `gathered_bank_heads` adds.
template <class Element>
struct BankRun {
  using Scalar = typename ScalarOf<Element>::type;
  const PairWalk& p;
  int64_t chunk;
  int column;
  int32_t row;
  bool is_head;
  Scalar sum[kElements<Element>] = {};

  __device__ __forceinline__ void add(int32_t row_of_pair, Scalar weight, const Piece& x) {
    if (row_of_pair != row) {
      write();
      row = row_of_pair;
    }
#pragma unroll
    for (int k = 0; k < kElements<Element>; k++) sum[k] = fma(weight, element(x, k, Element{}), sum[k]);
  }
  __device__ __forceinline__ void write() {
#pragma unroll
    for (int k = 0; k < kElements<Element>; k++) {
      if (row < p.rows && column + k < p.dim) {
        if (is_head)
          static_cast<Scalar*>(p.heads)[chunk * p.dim + column + k] = sum[k];
        else
          static_cast<Scalar*>(p.out)[static_cast<int64_t>(row) * p.dim + column + k] += sum[k];
      }
      sum[k] = 0;
    }
    if (row < p.rows) is_head = false;
  }
};

template <class Element>
__global__ void __launch_bounds__(kGatheredThreads, 4) gathered_bank(const __grid_constant__ PairWalk p) {
  using Scalar = typename ScalarOf<Element>::type;
  constexpr int kAtOnce = 8;
  const int lane = threadIdx.x % 32, in_team = lane % p.lanes, teams = 32 / p.lanes;
  const int64_t warp = global_thread() / 32, chunk = warp * teams + lane / p.lanes, first = chunk * kBankChunk;
  if (warp * teams * kBankChunk >= p.pairs) return;
  const int piece = blockIdx.y * p.lanes + in_team;
  const bool is_head = first > 0 && first < p.pairs && p.row[first - 1] == p.row[first];
  BankRun<Element> run{p, chunk, piece * kElements<Element>, p.rows, is_head};
  for (int base = 0; base < kBankChunk; base += p.lanes) {
    const int64_t k = first + base + in_team;
    const int32_t row = k < p.pairs ? p.row[k] : p.rows;
    int query = -1;
    Scalar weight = 0;
    if (row < p.rows) {
      query = static_cast<uint32_t>(p.pair[k]) / static_cast<uint32_t>(p.m);
      weight = weight_of_pair<Scalar>(p, p.pair[k], query);
    }
    for (int j = 0; j < p.lanes; j += kAtOnce) {
      Piece x[kAtOnce][1];
      int queries[kAtOnce];
#pragma unroll
      for (int r = 0; r < kAtOnce; r++) queries[r] = __shfl_sync(~0u, query, j + r, p.lanes);
      if (p.queries.unit == kPiece)
        load_rows_by<kPiece>(x, p.queries, queries, piece * kPiece, p.row_bytes);
      else if (sizeof(Element) >= 4 || p.queries.unit == 4)
        load_rows_by<4>(x, p.queries, queries, piece * kPiece, p.row_bytes);
      else
        load_rows_by<2>(x, p.queries, queries, piece * kPiece, p.row_bytes);
#pragma unroll
      for (int r = 0; r < kAtOnce; r++)
        run.add(__shfl_sync(~0u, row, j + r, p.lanes), __shfl_sync(~0u, weight, j + r, p.lanes), x[r][0]);
    }
  }
  run.write();
}

// A warp for each chunk whose last run goes on into the next ones.
template <class Scalar>
__global__ void __launch_bounds__(kGatheredThreads) gathered_bank_heads(const __grid_constant__ PairWalk p) {
  const int64_t chunk = global_thread() / 32, first = chunk * kBankChunk, next = first + kBankChunk;
  if (next >= p.pairs) return;
  const int32_t row = p.row[next];
  if (row >= p.rows || p.row[next - 1] != row || (first > 0 && p.row[first - 1] == row)) return;
  int64_t last = next, end = p.pairs;  // of the run
  while (end - last > 1) {
    const int64_t middle = last + (end - last) / 2;
    (p.row[middle] == row ? last : end) = middle;
  }
  const int64_t last_chunk = last / kBankChunk;
  Scalar* out = static_cast<Scalar*>(p.out) + static_cast<int64_t>(row) * p.dim;
  for (int column = threadIdx.x % 32; column < p.dim; column += 32) {
    double sum = out[column];
#pragma unroll 8
    for (int64_t c = chunk + 1; c <= last_chunk; c++) sum += static_cast<const Scalar*>(p.heads)[c * p.dim + column];
    out[column] = static_cast<Scalar>(sum);
  }
}

}  // namespace mi::cuda
