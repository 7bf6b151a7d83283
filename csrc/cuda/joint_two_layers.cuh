// The three products of the joint critic with two hidden layers. Each has one factor that is made where it is used: the
// hidden units of pairs, or their weights.
#pragma once
#include "joint_block.h"
#include "runs.cuh"

namespace mi::cuda {

// A thread has 2 x 2 runs of a product. Pairs are 8 rows x kColumns columns.
template <class Scalar>
struct LayerTile {
  static constexpr int kHalf = kRun<Scalar>, kThread = 2 * kHalf;
  static constexpr int kRows = 8, kColumns = kThread, kPairs = kRows * kColumns;
  static constexpr int kUnits = 16 * kThread;  // of the inner layer, or hidden
  static constexpr int kFew = 8 * kThread;     // hidden units beside kUnits of the inner layer
  static constexpr int kDepth = 16;            // of a step
  static constexpr int kBits = kThread;        // in a byte of signs
};

// product += left^T right over the depth of a step; the runs of a thread lie half a row apart.
template <class Scalar, int kLeft, int kRight>
__device__ __forceinline__ void multiply_step(Scalar (&product)[2 * kRun<Scalar>][2 * kRun<Scalar>],
                                              const Scalar (&left)[16][kLeft], const Scalar (&right)[16][kRight], int l,
                                              int r) {
  constexpr int kHalf = kRun<Scalar>;
#pragma unroll 4
  for (int k = 0; k < 16; k++) {
    Scalar x[2 * kHalf], y[2 * kHalf];
    load_run(left[k] + l, x), load_run(left[k] + kLeft / 2 + l, x + kHalf);
    load_run(right[k] + r, y), load_run(right[k] + kRight / 2 + r, y + kHalf);
#pragma unroll
    for (int q = 0; q < 2 * kHalf; q++)
#pragma unroll
      for (int c = 0; c < 2 * kHalf; c++) product[q][c] = fma(x[q], y[c], product[q][c]);
  }
}

// kDepth rows of kUnits elements. Interleaved: a thread's two runs, neighbours in memory, land half a row apart.
template <class Scalar, bool kInterleaved>
__device__ __forceinline__ void copy_rows_async(Scalar (&to)[16][LayerTile<Scalar>::kUnits], const Scalar* from,
                                                int64_t pitch) {
  constexpr int kUnits = LayerTile<Scalar>::kUnits;
  const int run = threadIdx.x % 32;
  const int place = kInterleaved ? run % 2 * (kUnits / 2) + run / 2 * kRun<Scalar> : run * kRun<Scalar>;
#pragma unroll
  for (int row = 0; row < 16; row += kWarps) {
    const int at = row + threadIdx.x / 32;
    copy_async<16>(shared_address(&to[at][place]), from + at * pitch + run * kRun<Scalar>, 16);
  }
  close_copies();
}

template <class Scalar>
struct LayerParams {
  const Scalar *queries, *candidates;  // [a, 1], [b, 0], from the block's first on [rows][pitch]
  int64_t pitch;
  int64_t depth;               // h + 1, as whole steps
  const Scalar* inner;         // W^T [depth][units]
  const Scalar* last;          // w [units]
  int64_t units, inner_units;  // as whole tiles, and h1 itself
  PairBlock block;             // without values: signs only
  uint8_t* signs;              // [pairs][units / kBits], or null
};

template <class Scalar>
__global__ void __launch_bounds__(kThreads) two_layer_scores(const __grid_constant__ LayerParams<Scalar> p) {
  using Tile = LayerTile<Scalar>;
  constexpr int kHalf = Tile::kHalf, kThread = Tile::kThread, kParts = kThreads / Tile::kPairs;
  __shared__ __align__(16) Scalar hidden[kStages][Tile::kDepth][Tile::kPairs];
  __shared__ __align__(16) Scalar weights[kStages][Tile::kDepth][Tile::kUnits];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * Tile::kRows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * Tile::kColumns;
  const int pair = threadIdx.x % Tile::kPairs, part = threadIdx.x / Tile::kPairs * kThread;  // whose units it makes
  const Scalar* a = p.queries + (first_row + pair / Tile::kColumns) * p.pitch + part;
  const Scalar* b = p.candidates + (first_column + pair % Tile::kColumns) * p.pitch + part;
  const int pairs = threadIdx.x / 16 * kHalf, unit_thread = threadIdx.x % 16;  // of the product
  static_assert(kParts * kThread == Tile::kDepth);
  Scalar x[kThread], y[kThread], scores[kThread] = {};
  const auto fetch = [&](int64_t k) {
    load_run(a + k, x), load_run(a + k + kHalf, x + kHalf);
    load_run(b + k, y), load_run(b + k + kHalf, y + kHalf);
  };
  const auto place = [&](int use) {
#pragma unroll
    for (int q = 0; q < kThread; q++) hidden[use][part + q][pair] = larger(x[q] + y[q], Scalar(0));
  };
  for (int64_t first = 0; first < p.units; first += Tile::kUnits) {
    Scalar z[kThread][kThread] = {};
    int use = 0;
    copy_rows_async<Scalar, true>(weights[0], p.inner + first, p.units);
    fetch(0), place(0);
    for (int64_t k = Tile::kDepth; k <= p.depth; k += Tile::kDepth, use = 1 - use) {
      await_copies<0>();
      __syncthreads();
      if (k < p.depth)
        copy_rows_async<Scalar, true>(weights[1 - use], p.inner + k * p.units + first, p.units), fetch(k);
      multiply_step(z, hidden[use], weights[use], pairs, unit_thread * kHalf);
      if (k < p.depth) place(1 - use);
    }
    __syncthreads();
#pragma unroll
    for (int q = 0; q < kThread; q++) {
      const int at = q / kHalf * (Tile::kPairs / 2) + pairs + q % kHalf;
      unsigned bits = 0;
#pragma unroll
      for (int u = 0; u < kThread; u++) {
        const int64_t unit = first + unit_thread * kThread + u;
        if (unit < p.inner_units) scores[q] = fma(larger(z[q][u], Scalar(0)), p.last[unit], scores[q]);
        bits |= (z[q][u] > 0) << u;
      }
      const int64_t row = first_row + at / Tile::kColumns, column = first_column + at % Tile::kColumns;
      if (p.signs && row < p.block.rows && column < p.block.columns)
        p.signs[((row * p.block.columns + column) * p.units + first) / Tile::kBits + unit_thread] = bits;
    }
  }
#pragma unroll
  for (int q = 0; q < kThread; q++) {
    for (int mask = 8; mask > 0; mask /= 2) scores[q] += __shfl_xor_sync(~0u, scores[q], mask);
    const int at = q / kHalf * (Tile::kPairs / 2) + pairs + q % kHalf;
    const int64_t row = first_row + at / Tile::kColumns, column = first_column + at % Tile::kColumns;
    if (p.block.values && unit_thread == 0 && row < p.block.rows && column < p.block.columns)
      static_cast<Scalar*>(p.block.values)[row * p.block.pitch + column] = scores[q];
  }
}

// s of each query with its target, NaN where that is no candidate: 16 threads have the units that those of a tile have,
// and go through the sums of a pair as `two_layer_scores` does. All queries and candidates are the block.
template <class Scalar>
__global__ void two_layer_positives(LayerParams<Scalar> p, const int64_t* target, double* out) {
  using Tile = LayerTile<Scalar>;
  constexpr int kHalf = Tile::kHalf, kThread = Tile::kThread;
  const int64_t pair = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 16;
  const int64_t i = min(pair, p.block.rows - 1), j = target[i];
  const bool inside = static_cast<uint64_t>(j) < static_cast<uint64_t>(p.block.columns);
  const Scalar *a = p.queries + i * p.pitch, *b = p.candidates + (inside ? j : 0) * p.pitch;
  const int unit_thread = threadIdx.x % 16;
  Scalar score = 0;
  for (int64_t unit = unit_thread * kThread; unit < p.units; unit += Tile::kUnits) {
    Scalar z[kThread] = {};
    for (int64_t k = 0; k < p.depth; k++) {
      const Scalar hidden = larger(a[k] + b[k], Scalar(0)), *weights = p.inner + k * p.units + unit;
      Scalar w[kThread];
      load_run(weights, w), load_run(weights + kHalf, w + kHalf);
#pragma unroll
      for (int u = 0; u < kThread; u++) z[u] = fma(hidden, w[u], z[u]);
    }
#pragma unroll
    for (int u = 0; u < kThread; u++)
      if (unit + u < p.inner_units) score = fma(larger(z[u], Scalar(0)), p.last[unit + u], score);
  }
  for (int mask = 8; mask > 0; mask /= 2) score += __shfl_xor_sync(~0u, score, mask);
  if (unit_thread == 0 && pair == i) out[i] = inside ? static_cast<double>(score) : __builtin_nan("");
}

template <class Scalar>
struct LayerSumParams {
  const Scalar *queries, *candidates;  // as LayerParams
  int64_t pitch, units;
  PairBlock block;  // G
  const uint8_t* signs;
  int64_t steps_per_split;  // of kDepth columns of a row
  Scalar* parts;            // [splits][units][pitch]
};

// D = M^T H over the pairs of a split: kUnits of the inner layer, kFew hidden ones.
template <class Scalar>
__global__ void __launch_bounds__(kThreads) two_layer_weight_sums(const __grid_constant__ LayerSumParams<Scalar> p) {
  using Tile = LayerTile<Scalar>;
  constexpr int kHalf = Tile::kHalf, kThread = Tile::kThread;
  __shared__ __align__(16) Scalar switched[kStages][Tile::kDepth][Tile::kUnits];  // M
  __shared__ __align__(16) Scalar hidden[kStages][Tile::kDepth][Tile::kFew];
  const int64_t first_unit = static_cast<int64_t>(blockIdx.x) * Tile::kUnits;
  const int64_t first_hidden = static_cast<int64_t>(blockIdx.y) * Tile::kFew;
  const int pair = threadIdx.x / 8, part = threadIdx.x % 8;
  const int64_t bytes = p.units / Tile::kBits, steps_of_row = ceil_div(p.block.columns, Tile::kDepth);
  const int64_t first = static_cast<int64_t>(blockIdx.z) * p.steps_per_split;
  const int64_t last = min(p.block.rows * steps_of_row, first + p.steps_per_split);
  int64_t row = first / steps_of_row, column = first % steps_of_row * Tile::kDepth + pair;
  Scalar x[kThread], y[kThread], weight;
  unsigned bits[2];
  const auto fetch = [&] {  // of the next step
    const Scalar* a = p.queries + row * p.pitch + first_hidden + part * kHalf;
    const Scalar* b = p.candidates + column * p.pitch + first_hidden + part * kHalf;
    load_run(a, x), load_run(a + Tile::kFew / 2, x + kHalf);
    load_run(b, y), load_run(b + Tile::kFew / 2, y + kHalf);
    const bool inside = column < p.block.columns;
    const uint8_t* signs = p.signs + (row * p.block.columns + column) * bytes + first_unit / Tile::kBits + part;
    weight = inside ? static_cast<const Scalar*>(p.block.values)[row * p.block.pitch + column] : Scalar(0);
    bits[0] = inside ? signs[0] : 0, bits[1] = inside ? signs[8] : 0;
    column += Tile::kDepth;
    if (column - pair >= p.block.columns) column = pair, row++;
  };
  const auto place = [&](int use) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      Scalar run[kHalf];
#pragma unroll
      for (int q = 0; q < kHalf; q++) run[q] = larger(x[half * kHalf + q] + y[half * kHalf + q], Scalar(0));
      store_whole_run(run, hidden[use][pair] + half * (Tile::kFew / 2) + part * kHalf);
#pragma unroll
      for (int byte = 0; byte < 2; byte++) {
#pragma unroll
        for (int q = 0; q < kHalf; q++) run[q] = bits[byte] >> (half * kHalf + q) & 1 ? weight : Scalar(0);
        store_whole_run(run, switched[use][pair] + half * (Tile::kUnits / 2) + (part + 8 * byte) * kHalf);
      }
    }
  };
  const int unit_thread = threadIdx.x / 8, hidden_thread = threadIdx.x % 8;
  Scalar sums[kThread][kThread] = {};
  fetch(), place(0);
  for (int64_t step = first + 1, use = 0; step <= last; step++, use = 1 - use) {
    __syncthreads();
    if (step < last) fetch();
    multiply_step(sums, switched[use], hidden[use], unit_thread * kHalf, hidden_thread * kHalf);
    if (step < last) place(1 - use);
  }
#pragma unroll
  for (int q = 0; q < kThread; q++) {
    Scalar* out = p.parts + (blockIdx.z * p.units + first_unit + unit_thread * kThread + q) * p.pitch + first_hidden;
    store_whole_run(sums[q], out + hidden_thread * kHalf);
    store_whole_run(sums[q] + kHalf, out + Tile::kFew / 2 + hidden_thread * kHalf);
  }
}

}  // namespace mi::cuda
