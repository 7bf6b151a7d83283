// A sequence of launches on a stream that stops at the first error.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#include "../core/params.h"
#include "arena.h"
#include "pairwise.h"
#include "rows.cuh"

namespace mi::cuda {

struct Queue {
  cudaStream_t stream;
  cudaError_t error = cudaSuccess;

  // enough threads for `count` elements
  template <class... Params, class... Arguments>
  void each(int64_t count, void (*kernel)(Params...), Arguments... arguments) {
    if (count > 0)
      launch(dim3(static_cast<unsigned>((count + kRowThreads - 1) / kRowThreads)), kRowThreads, kernel, arguments...);
  }
  template <class... Params, class... Arguments>
  void one_block(void (*kernel)(Params...), Arguments... arguments) {
    launch(dim3(1), kBlockThreads, kernel, arguments...);
  }
  template <class... Params, class... Arguments>
  void launch(dim3 grid, int threads, void (*kernel)(Params...), Arguments... arguments) {
    if (error != cudaSuccess) return;
    kernel<<<grid, threads, 0, stream>>>(arguments...);
    error = cudaGetLastError();
  }
  template <class Call>
  void run(Call&& call) {
    if (error == cudaSuccess) error = call();
  }
};

inline int64_t element_bytes(Dtype dtype) { return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2; }

// Features as asynchronous copies want them: in place, or a copy whose rows are 16-byte aligned.
struct AlignedFeatures {
  Features features;
  int64_t dim, size;
  void* copy = nullptr;

  AlignedFeatures(const Features& f, int64_t dim, Dtype dtype, Arena& arena)
      : features(f), dim(dim), size(element_bytes(dtype)) {
    const bool aligned = reinterpret_cast<uintptr_t>(f.data) % 16 == 0 && (f.pitch * size % 16 == 0 || f.rows <= 1);
    if (!aligned) copy = arena.take_bytes(f.rows * pitch_of_copy());
  }
  int64_t pitch_of_copy() const { return (dim * size + 15) / 16 * 16; }

  void fill(Queue& queue) const {
    if (!copy) return;
    auto run = [&]<class Word>(Word) {
      queue.each(features.rows * dim, copy_rows<Word>, static_cast<const Word*>(features.data), features.pitch,
                 features.rows, dim, static_cast<Word*>(copy), pitch_of_copy() / size);
    };
    size == 8 ? run(uint64_t{}) : size == 4 ? run(uint32_t{}) : run(uint16_t{});
  }
  WalkSide side() const {
    WalkSide side;
    side.data = copy ? copy : features.data;
    side.rows = features.rows;
    side.pitch = copy ? pitch_of_copy() : features.rows > 1 ? features.pitch * size : 0;
    return side;
  }
};

// How the streamed side is cut so that the device is busy, though the owner has few rows.
struct Splits {
  int tiles_per_split = 1;
  int count = 1;

  Splits(int64_t owner_rows, int64_t streamed_rows, const TileShape& shape, int multiprocessors) {
    constexpr int64_t kBlocksEach = 2;  // of threads, for each multiprocessor
    const int64_t blocks = std::max<int64_t>(1, (owner_rows + shape.rows - 1) / shape.rows);
    const int64_t tiles = std::max<int64_t>(1, (streamed_rows + shape.columns - 1) / shape.columns);
    const int64_t wanted = std::clamp<int64_t>(kBlocksEach * multiprocessors / blocks, 1, tiles);
    tiles_per_split = static_cast<int>((tiles + wanted - 1) / wanted);
    count = static_cast<int>((tiles + tiles_per_split - 1) / tiles_per_split);
  }
};

// Runs `call` with a value of the dtype that is computed in.
template <class Call>
auto with_scalar(Dtype dtype, Call&& call) {
  return dtype == Dtype::kFloat64 ? call(double{}) : call(float{});
}

// Both sides of a problem, and walks that either of them owns.
struct Sides {
  const DeviceDotProblem& p;
  AlignedFeatures queries, candidates;
  void* log_weight = nullptr;  // Scalar [m], log2 units

  Sides(const DeviceDotProblem& p, Arena& arena)
      : p(p), queries(p.queries, p.dim, p.dtype, arena), candidates(p.candidates, p.dim, p.dtype, arena) {
    if (p.exclusions.candidate_log_weight)
      log_weight = arena.take_bytes(p.m() * pairwise_kernels(p.dtype).scalar_bytes);
  }

  void fill(Queue& queue) const {
    queries.fill(queue);
    candidates.fill(queue);
    if (log_weight)
      with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
        queue.each(p.m(), scale_log_weights<Scalar>, p.exclusions.candidate_log_weight, p.m(),
                   static_cast<Scalar*>(log_weight));
      });
  }
  Splits splits(bool queries_own, const TileShape& shape) const {
    return queries_own ? Splits(p.n(), p.m(), shape, p.multiprocessors)
                       : Splits(p.m(), p.n(), shape, p.multiprocessors);
  }
  Walk walk(bool queries_own, const Splits& splits) const {
    const Exclusions& e = p.exclusions;
    WalkSide x = queries.side(), y = candidates.side();
    x.target = e.target;
    x.label = e.query_label;
    y.label = e.candidate_label;
    y.log_weight = log_weight;
    Walk walk;
    walk.owner = queries_own ? x : y;
    walk.streamed = queries_own ? y : x;
    walk.row_bytes = p.dim * element_bytes(p.dtype);
    walk.scale = p.scale;
    walk.bias = p.bias;
    walk.tiles_per_split = splits.tiles_per_split;
    walk.exact = !p.tf32;
    return walk;
  }
};

}  // namespace mi::cuda
