#include "joint_one_layer.h"

#include "joint_one_layer.cuh"
#include "joint_prepare.cuh"

namespace mi::cuda {
namespace {

constexpr int64_t kGroup = 64;  // of rows, which one thread reads

// out [groups][h]: of a group of rows, the highest finite x_k; lowest() if there is none.
template <class Scalar>
__global__ void find_highest(Rows rows, int64_t group, Scalar* out) {
  const int64_t at = global_thread(), first = at / rows.width * group, k = at % rows.width;
  if (first >= rows.count) return;
  Scalar highest = -kLargest<Scalar>;
  for (int64_t i = first; i < min(rows.count, first + group); i++) {
    const Scalar x = static_cast<Scalar>(rows.at(i, k));
    highest = x > highest && x <= kLargest<Scalar> ? x : highest;
  }
  out[at] = highest;
}

// t_k, 0 where nothing is finite.
template <class Scalar>
__device__ __forceinline__ Scalar shift(const Scalar* highest, int64_t k) {
  return highest[k] == -kLargest<Scalar> ? Scalar(0) : highest[k];
}

// a' of a.
template <class Scalar>
struct Shifted {
  const Scalar* highest;
  __device__ __forceinline__ Scalar operator()(Scalar a, int64_t k) const { return a - shift(highest, k); }
};

// e of b; NaN stays.
template <class Scalar>
struct Edge {
  const Scalar* highest;
  __device__ __forceinline__ Scalar operator()(Scalar b, int64_t k) const {
    const Scalar edge = -(b + shift(highest, k));
    return edge > 0 ? Scalar(0) : edge;
  }
};

// -sum_k w_k e_jk of each candidate, 0 beyond the last. A warp for each.
template <class Scalar>
__global__ void find_offsets(Rows candidates, Edge<Scalar> edge, const Scalar* weight, int64_t count, Scalar* out) {
  const int64_t j = global_thread() / 32;
  if (j >= count) return;
  double sum = 0;
  for (int64_t k = threadIdx.x % 32; j < candidates.count && k < candidates.width; k += 32)
    sum -= static_cast<double>(weight[k]) * edge(static_cast<Scalar>(candidates.at(j, k)), k);
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
  if (threadIdx.x % 32 == 0) out[j] = static_cast<Scalar>(sum);
}

// sums [rows][h], U or V, become gradients; parts [groups][h] = sum of x U over a group of rows.
template <class Scalar>
__global__ void weigh_sums(Rows rows, const Scalar* weight, int64_t group, Scalar* sums, double* parts) {
  const int64_t at = global_thread(), first = at / rows.width * group, k = at % rows.width;
  if (first >= rows.count) return;
  double part = 0;
  for (int64_t i = first; i < min(rows.count, first + group); i++) {
    Scalar& sum = sums[i * rows.width + k];
    part += sum == 0 ? 0 : rows.at(i, k) * static_cast<double>(sum);  // a unit that is off may have an infinite x
    sum *= weight[k];
  }
  parts[at] = part;
}

// Sums of parts [count][h] over their groups. A warp for each unit.
template <class Scalar>
__global__ void sum_groups(const double* parts, int64_t count, int64_t width, Scalar* out) {
  const int64_t k = global_thread() / 32;
  if (k >= width) return;
  double sum = 0;
  for (int64_t group = threadIdx.x % 32; group < count; group += 32) sum += parts[group * width + k];
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
  if (threadIdx.x % 32 == 0) out[k] = static_cast<Scalar>(sum);
}

int64_t groups_of(int64_t rows) { return ceil_div(rows, kGroup); }

// Parts of the streamed side, so that every multiprocessor has a few blocks of threads.
template <class Scalar>
int splits_of(int64_t owner_rows, int64_t streamed_rows, int64_t units, int multiprocessors) {
  constexpr int64_t kBlocksEach = 4;
  using Tile = SumTile<Scalar>;
  const int64_t tiles = ceil_div(owner_rows, Tile::kOwners) * ceil_div(units, Tile::kUnits);
  return static_cast<int>(std::clamp<int64_t>(kBlocksEach * multiprocessors / tiles, 1,
                                              std::max<int64_t>(1, streamed_rows / (2 * Tile::kStreamed))));
}

// sums [owner rows][h] += those of a block.
template <class Scalar, bool kQueriesOwn>
void enqueue_sums(Queue& queue, SumParams<Scalar> p, int splits, int64_t width, Scalar* sums) {
  using Tile = SumTile<Scalar>;
  p.streamed_per_split = ceil_div(ceil_div(p.streamed_rows, splits), Tile::kStreamed) * Tile::kStreamed;
  const int64_t count = ceil_div(p.streamed_rows, p.streamed_per_split);
  const dim3 grid(static_cast<unsigned>(ceil_div(p.owner_rows, Tile::kOwners)),
                  static_cast<unsigned>(ceil_div(width, Tile::kUnits)), static_cast<unsigned>(count));
  queue.launch(grid, kThreads, one_layer_sums<Scalar, kQueriesOwn>, p);
  enqueue_add_parts(queue, PartialSums<Scalar>{p.parts, count, p.owner_rows, p.unit_pitch}, p.owner_rows, width, sums,
                    width);
}

template <class Scalar>
ScoreParams<Scalar> score_params(const OneHiddenLayer<Scalar>& c, const PairBlock& block) {
  return {c.queries + block.first_row,
          c.candidates + block.first_column,
          c.query_pitch,
          c.candidate_pitch,
          c.weight,
          c.offset + block.first_column,
          c.units,
          block};
}

}  // namespace

template <class Scalar>
OneHiddenLayer<Scalar>::OneHiddenLayer(const DeviceJointProblem& p, const PairBlocks& blocks, bool gradient,
                                       Arena& arena)
    : p(p),
      blocks(blocks),
      gradient(gradient),
      units(ceil_div(p.hidden, ScoreTile<Scalar>::kUnits) * ScoreTile<Scalar>::kUnits),
      query_pitch(PairBlocks::round_up(p.n())),
      candidate_pitch(PairBlocks::round_up(p.m())),
      unit_pitch(ceil_div(p.hidden, kRun<Scalar>) * kRun<Scalar>),
      query_splits(splits_of<Scalar>(blocks.rows, blocks.columns, p.hidden, p.multiprocessors)),
      candidate_splits(splits_of<Scalar>(blocks.columns, blocks.rows, p.hidden, p.multiprocessors)),
      highest(arena.take<Scalar>(p.hidden)),
      highest_parts(arena.take<Scalar>(groups_of(p.n()) * p.hidden)),
      weight(arena.take<Scalar>(units)),
      queries(arena.take<Scalar>(units * query_pitch)),
      candidates(arena.take<Scalar>(units * candidate_pitch)),
      offset(arena.take<Scalar>(candidate_pitch)) {
  if (!gradient) return;
  negated_queries = arena.take<Scalar>(p.n() * unit_pitch);
  negated_candidates = arena.take<Scalar>(p.m() * unit_pitch);
  parts = arena.take<Scalar>(std::max(query_splits * blocks.rows, candidate_splits * blocks.columns) * unit_pitch);
  weight_parts = arena.take<double>((groups_of(p.n()) + groups_of(p.m())) * p.hidden);
}

template <class Scalar>
void OneHiddenLayer<Scalar>::prepare(Queue& queue, const JointGradients* g) const {
  const Rows a = rows_of(p.queries, p.dtype, p.hidden), b = rows_of(p.candidates, p.dtype, p.hidden);
  const Rows group_maxima{highest_parts, sizeof(Scalar) == 8 ? Dtype::kFloat64 : Dtype::kFloat32, groups_of(p.n()),
                          p.hidden, p.hidden};
  queue.each(groups_of(p.n()) * p.hidden, find_highest<Scalar>, a, kGroup, highest_parts);
  queue.each(p.hidden, fill<Scalar>, highest, p.hidden, -kLargest<Scalar>);
  queue.each(p.n() ? p.hidden : 0, find_highest<Scalar>, group_maxima, std::max<int64_t>(1, groups_of(p.n())), highest);
  queue.each(units, copy_scaled<Scalar>, rows_of(p.last_weight, p.dtype, p.hidden), Scalar(1), units, weight);
  enqueue_transpose(queue, a, Shifted<Scalar>{highest}, units, query_pitch, queries);
  enqueue_transpose(queue, b, Edge<Scalar>{highest}, units, candidate_pitch, candidates);
  queue.each(32 * candidate_pitch, find_offsets<Scalar>, b, Edge<Scalar>{highest}, static_cast<const Scalar*>(weight),
             candidate_pitch, offset);
  if (!g) return;
  queue.each(p.n() * unit_pitch, copy_scaled<Scalar>, a, Scalar(-1), unit_pitch, negated_queries);
  queue.each(p.m() * unit_pitch, copy_scaled<Scalar>, b, Scalar(-1), unit_pitch, negated_candidates);
  queue.each(p.n() * p.hidden, fill<Scalar>, static_cast<Scalar*>(g->queries), p.n() * p.hidden, Scalar(0));
  queue.each(p.m() * p.hidden, fill<Scalar>, static_cast<Scalar*>(g->candidates), p.m() * p.hidden, Scalar(0));
}

template <class Scalar>
void OneHiddenLayer<Scalar>::scores(Queue& queue, const PairBlock& block) const {
  using Tile = ScoreTile<Scalar>;
  const dim3 grid(static_cast<unsigned>(ceil_div(block.rows, Tile::kRows)),
                  static_cast<unsigned>(ceil_div(block.columns, Tile::kColumns)));
  queue.launch(grid, kThreads, one_layer_scores<Scalar>, score_params(*this, block));
}

template <class Scalar>
void OneHiddenLayer<Scalar>::positives(Queue& queue, double* out) const {
  queue.each(p.n(), one_layer_positives<Scalar>, score_params(*this, {0, p.n(), 0, p.m()}), p.exclusions.target, out);
}

template <class Scalar>
void OneHiddenLayer<Scalar>::add_gradients(Queue& queue, const PairBlock& block, const JointGradients& g) const {
  Scalar* da = static_cast<Scalar*>(g.queries) + block.first_row * p.hidden;
  Scalar* db = static_cast<Scalar*>(g.candidates) + block.first_column * p.hidden;
  const Scalar* a = negated_queries + block.first_row * unit_pitch;
  const Scalar* b = negated_candidates + block.first_column * unit_pitch;
  enqueue_sums<Scalar, true>(queue, {a, b, block.rows, block.columns, unit_pitch, block, 0, parts}, query_splits,
                             p.hidden, da);
  enqueue_sums<Scalar, false>(queue, {b, a, block.columns, block.rows, unit_pitch, block, 0, parts}, candidate_splits,
                              p.hidden, db);
}

template <class Scalar>
void OneHiddenLayer<Scalar>::finish(Queue& queue, const JointGradients& g) const {
  const Rows a = rows_of(p.queries, p.dtype, p.hidden), b = rows_of(p.candidates, p.dtype, p.hidden);
  double* rest = weight_parts + groups_of(p.n()) * p.hidden;
  const Scalar* w = weight;
  queue.each(groups_of(p.n()) * p.hidden, weigh_sums<Scalar>, a, w, kGroup, static_cast<Scalar*>(g.queries),
             weight_parts);
  queue.each(groups_of(p.m()) * p.hidden, weigh_sums<Scalar>, b, w, kGroup, static_cast<Scalar*>(g.candidates), rest);
  queue.each(32 * p.hidden, sum_groups<Scalar>, static_cast<const double*>(weight_parts),
             groups_of(p.n()) + groups_of(p.m()), p.hidden, static_cast<Scalar*>(g.last_weight));
}

template struct OneHiddenLayer<float>;
template struct OneHiddenLayer<double>;

}  // namespace mi::cuda
