// Two query sets made one, interleaved as query_pairs.cuh says, so that the walks of one set serve both.
#pragma once
#include "enqueue.cuh"
#include "query_pairs.cuh"

namespace mi::cuda {

// Rows without a query are 0.
template <class Word>
__global__ void interleave_rows(const __grid_constant__ Features first, const __grid_constant__ Features second,
                                int64_t width, int64_t rows, Word* to, int64_t to_pitch) {
  const int64_t k = global_thread();
  if (k >= rows * width) return;
  const PairedRow row(k / width);
  const Features& from = row.set == 0 ? first : second;
  to[k / width * to_pitch + k % width] =
      row.query < from.rows ? static_cast<const Word*>(from.data)[row.query * from.pitch + k % width] : Word{0};
}

// Rows without a query have no target.
template <class Value>
__global__ void interleave_values(const Value* from, int64_t queries, int64_t rows, Value* to) {
  const int64_t k = global_thread();
  if (k >= rows) return;
  const int64_t query = PairedRow(k).query;
  to[k] = query < queries ? from[query] : -1;
}

struct PairedQueries {
  const DeviceImportanceProblem& p;
  DeviceDotProblem problem;  // the interleaved queries and the candidates, by the first scale

  PairedQueries(const DeviceImportanceProblem& p, Arena& arena) : p(p), problem(p.first) {
    const int64_t rows = 2 * ceil_div(p.first.n(), kInterleave) * kInterleave, size = element_bytes(p.first.dtype);
    const int64_t pitch = ceil_div(p.first.dim * size, 16) * 16;
    problem.queries = {arena.take_bytes(rows * pitch), rows, pitch / size};
    Exclusions& e = problem.exclusions;
    if (e.target) e.target = arena.take<int64_t>(rows);
    if (e.query_label) e.query_label = arena.take<int64_t>(rows);
  }

  void fill(Queue& queue) const {
    const Features& to = problem.queries;
    auto rows = [&]<class Word>(Word) {
      queue.each(to.rows * problem.dim, interleave_rows<Word>, p.first.queries, p.second.queries, problem.dim, to.rows,
                 static_cast<Word*>(const_cast<void*>(to.data)), to.pitch);
    };
    const int64_t size = element_bytes(problem.dtype);
    size == 8 ? rows(uint64_t{}) : size == 4 ? rows(uint32_t{}) : rows(uint16_t{});
    auto values = [&](const int64_t* from, const int64_t* out) {
      if (from) queue.each(to.rows, interleave_values<int64_t>, from, p.first.n(), to.rows, const_cast<int64_t*>(out));
    };
    values(p.first.exclusions.target, problem.exclusions.target);
    values(p.first.exclusions.query_label, problem.exclusions.query_label);
  }
};

}  // namespace mi::cuda
