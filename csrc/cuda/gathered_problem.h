// A problem on gathered scores as the kernels are told it.
#pragma once
#include <algorithm>

#include "enqueue.cuh"
#include "gathered_walk.h"

namespace mi::cuda {

// further_pitch: bytes between two arrays of rows that are read alike.
inline GatheredRows gathered_rows(const Features& f, int64_t dim, Dtype dtype, int64_t further_pitch = 0) {
  const int64_t size = element_bytes(dtype), pitch = f.rows > 1 ? f.pitch * size : 0;
  const int64_t bits = static_cast<int64_t>(reinterpret_cast<uintptr_t>(f.data)) | pitch | further_pitch | dim * size;
  return {static_cast<const char*>(f.data), pitch, bits % kPiece == 0 ? kPiece : bits % 4 == 0 ? 4 : 2};
}

// As few lanes as hold a row, so that a warp reads several.
inline int lanes_for(int64_t row_bytes) { return row_bytes <= 8 * kPiece ? 8 : row_bytes <= 16 * kPiece ? 16 : 32; }

// How a query's negatives are cut so that the device is busy, though there are few queries. Sums over a part are short.
struct GatheredParts {
  int64_t count = 1, size = 0;

  explicit GatheredParts(const DeviceGatheredProblem& p) {
    constexpr int64_t kWarpsEach = 16, kShortest = 128, kLongest = 4096;  // warps for each multiprocessor; negatives
    const int64_t wanted = std::max<int64_t>(1, kWarpsEach * p.multiprocessors / std::max<int64_t>(p.n(), 1));
    size = std::clamp((p.m() + wanted - 1) / wanted, kShortest, kLongest);
    size = (size + 31) / 32 * 32;
    count = std::max<int64_t>(1, (p.m() + size - 1) / size);
  }
};

inline GatheredWalk walk_over(const DeviceGatheredProblem& p) {
  GatheredWalk walk;
  walk.queries = gathered_rows(p.queries, p.dim, p.dtype);
  walk.query_pitch = p.index || p.n() <= 1 ? 0 : p.query_pitch * element_bytes(p.dtype);
  walk.candidates = gathered_rows(p.candidates, p.dim, p.dtype, walk.query_pitch);
  walk.index = p.index;
  walk.n = p.n(), walk.m = p.m();
  walk.rows = p.candidates.rows;
  walk.dim = static_cast<int>(p.dim), walk.row_bytes = static_cast<int>(p.dim * element_bytes(p.dtype));
  walk.scale = p.scale, walk.bias = p.bias;
  walk.lanes = lanes_for(walk.row_bytes);
  return walk;
}

}  // namespace mi::cuda
