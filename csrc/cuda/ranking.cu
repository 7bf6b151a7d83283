// Ranks of the positives, entropies of the weights and log-sum-exps: the diagonal of the scores, then one walk.
#include "ranking.h"

#include <limits>

#include "dispatch.cuh"
#include "enqueue.cuh"
#include "instantiate.cuh"
#include "ranking.cuh"

namespace mi::cuda {
namespace {

// to_i = from_{index_i}; NaN, every bit of it 1, where there is no such row.
template <class Word>
__global__ void gather_rows(const Word* from, int64_t from_pitch, int64_t from_rows, const int64_t* index, int64_t rows,
                            int64_t width, Word* to, int64_t to_pitch) {
  const int64_t k = global_thread();
  if (k >= rows * width) return;
  const int64_t row = index[k / width];
  to[k / width * to_pitch + k % width] =
      row >= 0 && row < from_rows ? from[row * from_pitch + k % width] : static_cast<Word>(~uint64_t{0});
}

// Elements from one row to the next, so that rows are 16-byte aligned.
int64_t aligned_pitch(const DeviceDotProblem& p) {
  const int64_t size = element_bytes(p.dtype);
  return (p.dim * size + 15) / 16 * 16 / size;
}

struct Plan {
  Sides sides;
  int64_t pitch;
  void* gathered;  // [n, pitch] where there are targets
  AlignedFeatures positives;
  TileShape shape;
  Splits splits;
  void *terms, *parts;

  Plan(const DeviceDotProblem& p, const Features& external, Arena& arena)
      : sides(p, arena),
        pitch(aligned_pitch(p)),
        gathered(p.exclusions.target ? arena.take_bytes(p.n() * pitch * element_bytes(p.dtype)) : nullptr),
        positives(p.exclusions.target ? Features{gathered, p.n(), pitch} : external, p.dim, p.dtype, arena),
        shape(with_traits(p.dtype, []<class Traits>(Traits) { return shape_of<typename Traits::Softplus>; })),
        splits(sides.splits(true, shape)) {
    with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
      terms = arena.take<Term<Scalar>>(p.n());
      parts = arena.take<RankingPart<Scalar>>(splits.count * shape.parts * p.n());
    });
  }

  void fill(Queue& queue) const {
    const DeviceDotProblem& p = sides.p;
    auto gather = [&]<class Word>(Word) {
      queue.each(p.n() * p.dim, gather_rows<Word>, static_cast<const Word*>(p.candidates.data), p.candidates.pitch,
                 p.m(), p.exclusions.target, p.n(), p.dim, static_cast<Word*>(gathered), pitch);
    };
    const int64_t size = element_bytes(p.dtype);
    if (gathered) size == 8 ? gather(uint64_t{}) : size == 4 ? gather(uint32_t{}) : gather(uint16_t{});
    positives.fill(queue);
    sides.fill(queue);
  }

  // Of the queries and their positives.
  PositivesParams diagonal(double* positive) const {
    PositivesParams params{sides.walk(true, splits), positive, terms};
    params.walk.owner.target = params.walk.owner.label = nullptr;
    params.walk.streamed = positives.side();
    params.walk.tiles_per_split = std::numeric_limits<int>::max();
    return params;
  }

  RankingParams rows() const {
    RankingParams params{sides.walk(true, splits), {}, parts};
    params.walk.owner.terms = terms;
    params.unweighted = params.walk;
    params.unweighted.streamed.log_weight = nullptr;
    return params;
  }
};

}  // namespace

size_t ranking_workspace(const DeviceDotProblem& p, const Features& external_positive) {
  Arena arena;
  Plan(p, external_positive, arena);
  return arena.used;
}

cudaError_t ranking(const DeviceDotProblem& p, const Features& external_positive, const DotRanking& out,
                    void* workspace, cudaStream_t stream) {
  if (p.n() == 0) return cudaSuccess;
  Arena arena{static_cast<char*>(workspace)};
  const Plan plan(p, external_positive, arena);
  Queue queue{stream};
  plan.fill(queue);
  with_traits(p.dtype, [&]<class Traits>(Traits) {
    using T = typename Traits::Softplus;
    queue.run([&] {
      return launch<T>(ranking_positives<T>, plan.diagonal(p.exclusions.target ? out.positive : nullptr), 1, 1, stream);
    });
    queue.run([&] { return launch<T>(ranking_walk<T>, plan.rows(), plan.splits.count, 1, stream); });
    queue.each(p.n(), join_rankings<typename T::Scalar>, static_cast<const void*>(plan.parts),
               plan.splits.count * plan.shape.parts, p.n(), out);
  });
  return queue.error;
}

}  // namespace mi::cuda
