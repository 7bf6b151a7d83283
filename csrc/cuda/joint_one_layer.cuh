// The two loops over hidden units of the joint critic with one hidden layer.
#pragma once
#include "joint_block.h"
#include "runs.cuh"

namespace mi::cuda {

// A thread has 2 x 2 runs of scores; all units pass by, a step of kUnits at a time.
template <class Scalar>
struct ScoreTile {
  static constexpr int kRowThreads = 16, kColumnThreads = 8;
  static constexpr int kHalf = kRun<Scalar>, kThread = 2 * kHalf;
  static constexpr int kRows = kThread * kRowThreads, kColumns = kThread * kColumnThreads;
  static constexpr int kUnits = 16;

  struct alignas(16) Step {
    Scalar queries[kUnits][kRows];
    Scalar candidates[kUnits][kColumns];
    Scalar weight[kUnits];
  };
};

template <class Scalar>
struct ScoreParams {
  const Scalar *queries, *candidates;  // a' [units][query_pitch], e [units][candidate_pitch], from the block's first on
  int64_t query_pitch, candidate_pitch;
  const Scalar* weight;  // w [units]
  const Scalar* offset;  // of the block's candidates
  int64_t units;
  PairBlock block;
};

template <class Scalar>
__device__ __forceinline__ void bring_step(typename ScoreTile<Scalar>::Step& step, const ScoreParams<Scalar>& p,
                                           int64_t first_row, int64_t first_column, int64_t first_unit) {
  using Tile = ScoreTile<Scalar>;
  constexpr int kRowRuns = Tile::kRows / kRun<Scalar>, kColumnRuns = Tile::kColumns / kRun<Scalar>;
  const int thread = threadIdx.x;
  const int row = thread % kRowRuns * kRun<Scalar>, column = thread % kColumnRuns * kRun<Scalar>;
  const Scalar* query = p.queries + (first_unit + thread / kRowRuns) * p.query_pitch + first_row + row;
#pragma unroll
  for (int unit = 0; unit < Tile::kUnits; unit += kThreads / kRowRuns) {
    copy_async<16>(shared_address(&step.queries[unit + thread / kRowRuns][row]), query, 16);
    query += kThreads / kRowRuns * p.query_pitch;
  }
  const Scalar* candidate =
      p.candidates + (first_unit + thread / kColumnRuns) * p.candidate_pitch + first_column + column;
#pragma unroll
  for (int unit = 0; unit < Tile::kUnits; unit += kThreads / kColumnRuns) {
    copy_async<16>(shared_address(&step.candidates[unit + thread / kColumnRuns][column]), candidate, 16);
    candidate += kThreads / kColumnRuns * p.candidate_pitch;
  }
  const int unit = thread * kRun<Scalar>;
  if (unit < Tile::kUnits) copy_async<16>(shared_address(&step.weight[unit]), p.weight + first_unit + unit, 16);
  close_copies();
}

template <class Scalar>
__global__ void __launch_bounds__(kThreads) one_layer_scores(const __grid_constant__ ScoreParams<Scalar> p) {
  using Tile = ScoreTile<Scalar>;
  constexpr int kHalf = Tile::kHalf, kThread = Tile::kThread;
  __shared__ typename Tile::Step shared[kStages];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * Tile::kRows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * Tile::kColumns;
  const int row = threadIdx.x / Tile::kColumnThreads * kHalf, column = threadIdx.x % Tile::kColumnThreads * kHalf;
  Scalar s[kThread][kThread] = {};
  bring_step(shared[0], p, first_row, first_column, 0);
  for (int64_t unit = 0, use = 0; unit < p.units; unit += Tile::kUnits, use = 1 - use) {
    await_copies<0>();
    __syncthreads();
    if (unit + Tile::kUnits < p.units) bring_step(shared[1 - use], p, first_row, first_column, unit + Tile::kUnits);
    const typename Tile::Step& step = shared[use];
#pragma unroll 1
    for (int k = 0; k < Tile::kUnits; k += kRun<Scalar>) {
      Scalar w[kRun<Scalar>];
      load_run(step.weight + k, w);
#pragma unroll
      for (int u = 0; u < kRun<Scalar>; u++) {
        Scalar a[kThread], e[kThread];
        load_run(step.queries[k + u] + row, a), load_run(step.queries[k + u] + Tile::kRows / 2 + row, a + kHalf);
        load_run(step.candidates[k + u] + column, e);
        load_run(step.candidates[k + u] + Tile::kColumns / 2 + column, e + kHalf);
#pragma unroll
        for (int r = 0; r < kThread; r++)
#pragma unroll
          for (int c = 0; c < kThread; c++) s[r][c] = fma(w[u], larger(a[r], e[c]), s[r][c]);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int64_t c = first_column + half * (Tile::kColumns / 2) + column;
    Scalar offset[kHalf];
    load_run(p.offset + c, offset);
#pragma unroll
    for (int r = 0; r < kThread; r++) {
      const int64_t at = first_row + r / kHalf * (Tile::kRows / 2) + row + r % kHalf;
      if (at >= p.block.rows) continue;
      Scalar* out = s[r] + half * kHalf;
#pragma unroll
      for (int k = 0; k < kHalf; k++) out[k] += offset[k];
      store_run(out, static_cast<Scalar*>(p.block.values) + at * p.block.pitch + c, p.block.columns - c);
    }
  }
}

// s of each query with its target, NaN where that is no candidate: a thread goes through the sum of a pair as
// `one_layer_scores` does. All queries and candidates are the block.
template <class Scalar>
__global__ void one_layer_positives(ScoreParams<Scalar> p, const int64_t* target, double* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.block.rows) return;
  const int64_t j = target[i];
  const bool inside = static_cast<uint64_t>(j) < static_cast<uint64_t>(p.block.columns);
  const Scalar *query = p.queries + i, *candidate = p.candidates + (inside ? j : 0);
  Scalar s = 0;
#pragma unroll 8
  for (int64_t unit = 0; unit < p.units; unit++)
    s = fma(p.weight[unit], larger(query[unit * p.query_pitch], candidate[unit * p.candidate_pitch]), s);
  out[i] = inside ? static_cast<double>(s + p.offset[j]) : __builtin_nan("");
}

// Sums of G over the pairs of an owner that turn a unit on: a thread has two runs of owners and one of units, and the
// other side streams by.
template <class Scalar>
struct SumTile {
  static constexpr int kUnitThreads = 16, kOwnerThreads = 8;
  static constexpr int kHalf = kRun<Scalar>, kThread = 2 * kHalf;
  static constexpr int kOwners = kThread * kOwnerThreads, kUnits = kHalf * kUnitThreads;
  static constexpr int kStreamed = 32;
  static constexpr int kPad = 4;  // keeps a transposed copy of G free of bank conflicts

  struct alignas(16) Step {
    Scalar weights[kStreamed][kOwners + kPad];
    Scalar negated[kStreamed][kUnits];
  };
};

template <class Scalar>
struct SumParams {
  const Scalar *owner, *streamed;  // -a and -b, or the other way round, [rows][unit_pitch], from the block's first on
  int64_t owner_rows, streamed_rows, unit_pitch;
  PairBlock block;
  int64_t streamed_per_split;
  Scalar* parts;  // [splits][owner rows][unit_pitch]
};

// Rows of G are the owner's, or the streamed side's: lanes run along them either way.
template <class Scalar, bool kQueriesOwn>
__device__ __forceinline__ void bring_sums(typename SumTile<Scalar>::Step& step, const SumParams<Scalar>& p,
                                           int64_t first_owner, int64_t first_unit, int64_t first, int64_t last) {
  using Tile = SumTile<Scalar>;
  constexpr int kWide = kQueriesOwn ? 4 : 32, kHigh = 32 / kWide;  // owners and streamed rows of a warp's copy
  constexpr int kCopies = Tile::kOwners * Tile::kStreamed / kThreads, kAcross = Tile::kOwners / kWide;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int owner = warp % kAcross * kWide + lane % kWide, streamed = warp / kAcross * kHigh + lane / kWide;
  const int rows = static_cast<int>(min(last - first, int64_t{Tile::kStreamed}));
  const int left = rows - streamed;
  constexpr int64_t kSize = sizeof(Scalar);
  const int64_t pitch = p.block.pitch * kSize, owner_pitch = kQueriesOwn ? pitch : kSize,
                streamed_pitch = kQueriesOwn ? kSize : pitch;
  const char* from = static_cast<const char*>(p.block.values) + (first + streamed) * streamed_pitch;
  const uint32_t to = shared_address(&step.weights[streamed][owner]);
#pragma unroll
  for (int k = 0; k < kCopies; k++) {
    const int o = kWarps * k % kAcross * kWide, s = kWarps * k / kAcross * kHigh;
    const int64_t i = min(first_owner + owner + o, p.owner_rows - 1);  // sums of none that is not there are written
    copy_async<kSize>(to + (s * (Tile::kOwners + Tile::kPad) + o) * kSize, from + i * owner_pitch + s * streamed_pitch,
                      s < left ? kSize : 0);
  }
  const int unit = threadIdx.x % Tile::kUnitThreads * kRun<Scalar>, row = threadIdx.x / Tile::kUnitThreads;
  const Scalar* negated = p.streamed + (first + row) * p.unit_pitch + first_unit + unit;
  const uint32_t place = shared_address(&step.negated[row][unit]);
  const bool inside = first_unit + unit < p.unit_pitch;
#pragma unroll
  for (int r = 0; r < Tile::kStreamed; r += kThreads / Tile::kUnitThreads)
    copy_async<16>(place + r * Tile::kUnits * sizeof(Scalar), negated + r * p.unit_pitch,
                   inside && r < rows - row ? 16 : 0);
  close_copies();
}

template <class Scalar, bool kQueriesOwn>
__global__ void __launch_bounds__(kThreads) one_layer_sums(const __grid_constant__ SumParams<Scalar> p) {
  using Tile = SumTile<Scalar>;
  constexpr int kHalf = Tile::kHalf, kThread = Tile::kThread;
  __shared__ typename Tile::Step shared[kStages];
  const int64_t first_owner = static_cast<int64_t>(blockIdx.x) * Tile::kOwners;
  const int64_t first_unit = static_cast<int64_t>(blockIdx.y) * Tile::kUnits;
  const int owner = threadIdx.x / Tile::kUnitThreads * kHalf, unit = threadIdx.x % Tile::kUnitThreads * kHalf;
  const int64_t k = first_unit + unit;
  Scalar a[kThread][kHalf] = {}, sums[kThread][kHalf] = {};
#pragma unroll
  for (int r = 0; r < kThread; r++) {
    const int64_t i = first_owner + r / kHalf * (Tile::kOwners / 2) + owner + r % kHalf;
    if (i < p.owner_rows && k < p.unit_pitch) load_run(p.owner + i * p.unit_pitch + k, a[r]);
#pragma unroll
    for (int u = 0; u < kHalf; u++) a[r][u] = -a[r][u];
  }
  const int64_t start = static_cast<int64_t>(blockIdx.z) * p.streamed_per_split;
  const int64_t last = min(p.streamed_rows, start + p.streamed_per_split);
  bring_sums<Scalar, kQueriesOwn>(shared[0], p, first_owner, first_unit, start, last);
  for (int64_t first = start, use = 0; first < last; first += Tile::kStreamed, use = 1 - use) {
    await_copies<0>();
    __syncthreads();
    if (first + Tile::kStreamed < last)
      bring_sums<Scalar, kQueriesOwn>(shared[1 - use], p, first_owner, first_unit, first + Tile::kStreamed, last);
    const typename Tile::Step& step = shared[use];
#pragma unroll 8
    for (int j = 0; j < Tile::kStreamed; j++) {
      Scalar b[kHalf], weight[kThread];
      load_run(step.negated[j] + unit, b);
      load_run(step.weights[j] + owner, weight);
      load_run(step.weights[j] + Tile::kOwners / 2 + owner, weight + kHalf);
#pragma unroll
      for (int r = 0; r < kThread; r++)
#pragma unroll
        for (int u = 0; u < kHalf; u++) add_where_greater(sums[r][u], a[r][u], b[u], weight[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kThread; r++) {
    const int64_t i = first_owner + r / kHalf * (Tile::kOwners / 2) + owner + r % kHalf;
    if (i < p.owner_rows && k < p.unit_pitch)
      store_whole_run(sums[r], p.parts + (blockIdx.z * p.owner_rows + i) * p.unit_pitch + k);
  }
}

}  // namespace mi::cuda
