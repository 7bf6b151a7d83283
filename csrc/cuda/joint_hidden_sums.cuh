// Gradients of the first layer's two parts through two hidden layers.
#pragma once
#include "joint_two_layers.cuh"

namespace mi::cuda {

template <class Scalar>
struct HiddenSumParams {
  const Scalar *queries, *candidates;  // as LayerParams
  int64_t pitch, units;
  const Scalar* weighted;  // w W [units][pitch]
  PairBlock block;         // G
  const uint8_t* signs;
  int64_t rows_per_group, columns_per_group;  // whole tiles
  Scalar* query_parts;                        // [column groups][rows][pitch]
  Scalar* candidate_parts;                    // [row groups][columns][pitch]
};

// dH = M (w W) of a tile of pairs and kUnits hidden units.
template <class Scalar>
struct HiddenGradients {
  using Tile = LayerTile<Scalar>;
  static constexpr int kHalf = Tile::kHalf, kThread = Tile::kThread;

  struct Shared {
    Scalar switched[kStages][Tile::kDepth][Tile::kPairs];  // M
    Scalar weights[kStages][Tile::kDepth][Tile::kUnits];
  };

  const HiddenSumParams<Scalar>& p;
  Shared& shared;
  int64_t first_hidden;
  int pair = threadIdx.x % Tile::kPairs, part = threadIdx.x / Tile::kPairs;  // whose M it makes: the units of a byte
  int pair_thread = threadIdx.x % 8, hidden_thread = threadIdx.x / 8;        // of the product

  __device__ void compute(Scalar (&product)[kThread][kThread], int64_t row, int64_t column) const {
    const int64_t i = row + pair / Tile::kColumns, j = column + pair % Tile::kColumns;
    const bool inside = i < p.block.rows && j < p.block.columns;
    const Scalar weight = inside ? static_cast<const Scalar*>(p.block.values)[i * p.block.pitch + j] : Scalar(0);
    const uint8_t* signs = p.signs + (i * p.block.columns + j) * (p.units / Tile::kBits) + part;
    unsigned bits;
    const auto fetch = [&](int use, int64_t unit) {
      copy_rows_async<Scalar, false>(shared.weights[use], p.weighted + unit * p.pitch + first_hidden, p.pitch);
      bits = inside ? signs[unit / Tile::kBits] : 0;
    };
    const auto place = [&](int use) {
#pragma unroll
      for (int q = 0; q < kThread; q++)
        shared.switched[use][part * kThread + q][pair] = bits >> q & 1 ? weight : Scalar(0);
    };
    int use = 0;
    __syncthreads();
    fetch(0, 0), place(0);
    for (int64_t unit = Tile::kDepth; unit <= p.units; unit += Tile::kDepth, use = 1 - use) {
      await_copies<0>();
      __syncthreads();
      if (unit < p.units) fetch(1 - use, unit);
      multiply_step(product, shared.switched[use], shared.weights[use], pair_thread * kHalf, hidden_thread * kHalf);
      if (unit < p.units) place(1 - use);
    }
  }

  // Of the thread's product (q, k).
  __device__ __forceinline__ int row_of(int q) const { return pair_thread / 2 + q / kHalf * (Tile::kRows / 2); }
  __device__ __forceinline__ int column_of(int q) const { return pair_thread % 2 * kHalf + q % kHalf; }
  __device__ __forceinline__ int64_t hidden_of(int half) const {
    return first_hidden + half * (Tile::kUnits / 2) + hidden_thread * kHalf;
  }

  // Units that are off have no gradient.
  __device__ __forceinline__ void mask(Scalar (&product)[kThread][kThread], int64_t row, int64_t column) const {
#pragma unroll
    for (int q = 0; q < kThread; q++) {
      const Scalar *a = p.queries + (row + row_of(q)) * p.pitch, *b = p.candidates + (column + column_of(q)) * p.pitch;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        Scalar x[kHalf], y[kHalf];
        load_run(a + hidden_of(half), x), load_run(b + hidden_of(half), y);
#pragma unroll
        for (int k = 0; k < kHalf; k++)
          product[q][half * kHalf + k] = x[k] + y[k] > 0 ? product[q][half * kHalf + k] : Scalar(0);
      }
    }
  }
};

// A block of threads owns a group of rows and a group of columns.
template <class Scalar>
__global__ void __launch_bounds__(kThreads) two_layer_hidden_sums(const __grid_constant__ HiddenSumParams<Scalar> p) {
  using Gradients = HiddenGradients<Scalar>;
  using Tile = LayerTile<Scalar>;
  constexpr int kHalf = Tile::kHalf, kThread = Tile::kThread;
  __shared__ __align__(16) typename Gradients::Shared shared;
  const Gradients gradients{p, shared, static_cast<int64_t>(blockIdx.x) * Tile::kUnits};
  const int64_t first_row = blockIdx.y * p.rows_per_group, first_column = blockIdx.z * p.columns_per_group;
  const int64_t last_row = min(p.block.rows, first_row + p.rows_per_group);
  const int64_t last_column = min(p.block.columns, first_column + p.columns_per_group);
  Scalar* query_part = p.query_parts + blockIdx.z * p.block.rows * p.pitch;
  Scalar* candidate_part = p.candidate_parts + blockIdx.y * p.block.columns * p.pitch;
  for (int64_t row = first_row; row < last_row; row += Tile::kRows) {
    Scalar row_sums[2][kThread] = {};
    for (int64_t column = first_column; column < last_column; column += Tile::kColumns) {
      Scalar product[kThread][kThread] = {};
      gradients.compute(product, row, column);
      gradients.mask(product, row, column);
#pragma unroll
      for (int c = 0; c < kHalf; c++) {
        const int64_t j = column + gradients.column_of(c);
        Scalar sums[kThread];
#pragma unroll
        for (int k = 0; k < kThread; k++) {
          row_sums[0][k] += product[c][k], row_sums[1][k] += product[kHalf + c][k];
          sums[k] = product[c][k] + product[kHalf + c][k];
          sums[k] += __shfl_xor_sync(~0u, sums[k], 2);
          sums[k] += __shfl_xor_sync(~0u, sums[k], 4);
        }
        if (gradients.pair_thread >= 2 || j >= p.block.columns) continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          Scalar before[kHalf] = {}, *out = candidate_part + j * p.pitch + gradients.hidden_of(half);
          if (row > first_row) load_run(out, before);
#pragma unroll
          for (int k = 0; k < kHalf; k++) before[k] += sums[half * kHalf + k];
          store_whole_run(before, out);
        }
      }
    }
#pragma unroll
    for (int q = 0; q < 2; q++) {
      const int64_t i = row + gradients.row_of(q * kHalf);
#pragma unroll
      for (int k = 0; k < kThread; k++) row_sums[q][k] += __shfl_xor_sync(~0u, row_sums[q][k], 1);
      if (gradients.pair_thread % 2 == 1 || i >= p.block.rows) continue;
#pragma unroll
      for (int half = 0; half < 2; half++)
        store_whole_run(row_sums[q] + half * kHalf, query_part + i * p.pitch + gradients.hidden_of(half));
    }
  }
}

}  // namespace mi::cuda
