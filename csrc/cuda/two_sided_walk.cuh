// Log-sum-exps of rows and of columns by one walk, each followed by a walk of its own over what is left undecided:
// those that lie some 60 nats or more below the highest score. The device decides, nobody waits: blocks of threads of
// the further walks return at once if they find nothing to do.
#pragma once
#include <limits>

#include "copies.cuh"
#include "row_walk.cuh"

namespace mi::cuda {

// Log-sum-exps from parts [count][pitch] of `terms` scores. Each that was flushed to zero was less than 2^lowest,
// relative to its part's reference: the sum is undecided if all of them together could have counted in its last digits.
template <class Scalar>
__global__ void join_decided(const void* parts, int count, int64_t pitch, int64_t rows, int64_t terms, double* lse,
                             int* undecided) {
  using Limits = std::numeric_limits<Scalar>;
  constexpr int kLowest =
      Limits::min_exponent < -800 ? -800 : Limits::min_exponent - 1;  // in double, `merge` loses more
  constexpr int kSpareDigits = 2;
  const int64_t row = global_thread();
  bool lost = false;
  if (row < rows) {
    const RowPart<Scalar>* all = static_cast<const RowPart<Scalar>*>(parts);
    double highest = kLowestReference;
    for (int k = 0; k < count; k++) highest = fmax(highest, static_cast<double>(all[k * pitch + row].reference));
    const double value = log2_value(joined(all, count, pitch, row));
    lse[row] = value * kLn2;
    lost = !(value >= highest + kLowest + log2(static_cast<double>(terms)) + Limits::digits + kSpareDigits);
  }
  lost = __any_sync(~0u, lost);
  if (row < rows && row % kRowsDecided == 0) undecided[row / kRowsDecided] = lost;
}

template <class Scalar>
__global__ void join_undecided(const void* parts, int count, int64_t rows, double* lse, const int* undecided) {
  const int64_t row = global_thread();
  if (row < rows && undecided[row / kRowsDecided])
    lse[row] = log2_value(joined(static_cast<const RowPart<Scalar>*>(parts), count, rows, row)) * kLn2;
}

struct TwoSidedWalk {
  // What the walk leaves of one side.
  struct Side {
    int count;
    int64_t pitch;
    void* parts;
    RowWalk again;
    int* undecided;

    Side(const Sides& sides, bool queries, int count, int64_t pitch, Arena& arena)
        : count(count),
          pitch(pitch),
          parts(arena.take_bytes(count * pitch * 2 * pairwise_kernels(sides.p.dtype).scalar_bytes)),
          again(sides, Reduction::kLogSumExp, queries, arena),
          undecided(arena.take<int>(ceil_div(again.rows, kRowsDecided))) {}

    void join(Queue& queue, double clip, double* lse) const {
      const DeviceDotProblem& p = again.sides.p;
      ForwardParams params = again.params(nullptr);
      params.walk.clip = clip;
      params.undecided = undecided;
      with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
        queue.each(again.rows, join_decided<Scalar>, static_cast<const void*>(parts), count, pitch, again.rows,
                   again.queries_own ? p.m() : p.n(), lse, undecided);
        again.run(queue, params);
        queue.each(again.rows, join_undecided<Scalar>, static_cast<const void*>(again.parts), again.count, again.rows,
                   lse, static_cast<const int*>(undecided));
      });
    }
  };

  // A slot of blocks of threads takes one block of rows after the other, and has sums of the columns.
  static constexpr int64_t kMostSlots = 16;
  const TwoSidedKernel& kernel;
  int slots;
  Splits splits;
  Side rows, columns;

  TwoSidedWalk(const Sides& sides, Arena& arena)
      : kernel(two_sided_kernel(sides.p)),
        slots(slots_for(ceil_div(sides.p.n(), shape().rows))),
        splits(slots * shape().rows, sides.p.m(), shape(), sides.p.multiprocessors),
        rows(sides, true, splits.count * shape().parts, sides.p.n(), arena),
        columns(sides, false, slots * shape().column_parts, ceil_div(sides.p.m(), shape().columns) * shape().columns,
                arena) {}

  const TileShape& shape() const { return kernel.shape; }
  static int slots_for(int64_t blocks) {
    return static_cast<int>(blocks == 0 ? 0 : ceil_div(blocks, ceil_div(blocks, kMostSlots)));
  }

  void run(Queue& queue, double clip, double* positive, double* lse, double* column_lse) const {
    TwoSidedParams params{rows.again.sides.walk(true, splits), positive, rows.parts, columns.parts, columns.pitch};
    params.walk.clip = clip;
    if (slots > 0) queue.run([&] { return kernel.run(params, slots, splits.count, queue.stream); });
    rows.join(queue, clip, lse);
    columns.join(queue, clip, column_lse);
  }
};

}  // namespace mi::cuda
