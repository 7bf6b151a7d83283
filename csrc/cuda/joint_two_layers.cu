#include "joint_two_layers.h"

#include "joint_hidden_sums.cuh"
#include "joint_prepare.cuh"

namespace mi::cuda {
namespace {

// out [padded rows][pitch] = [x, extra], 0 beyond.
template <class Scalar>
__global__ void append_unit(Rows rows, Scalar extra, int64_t padded_rows, int64_t pitch, Scalar* out) {
  const int64_t at = global_thread(), row = at / pitch, k = at % pitch;
  if (row >= padded_rows) return;
  const bool inside = row < rows.count && k <= rows.width;
  out[at] = !inside ? Scalar(0) : k == rows.width ? extra : static_cast<Scalar>(rows.at(row, k));
}

// W = [W1, b1].
struct InnerLayer {
  Rows weight, bias;
  __device__ __forceinline__ double at(int64_t unit, int64_t k) const {
    return unit >= weight.count || k > weight.width ? 0 : k == weight.width ? bias.at(0, unit) : weight.at(unit, k);
  }
};

// transposed [pitch][units] = W^T; weighted [units][pitch] = w W, unless null; 0 beyond.
template <class Scalar>
__global__ void spread_inner_layer(InnerLayer layer, const Scalar* last, int64_t units, int64_t pitch,
                                   Scalar* transposed, Scalar* weighted) {
  const int64_t at = global_thread(), unit = at / pitch, k = at % pitch;
  if (unit >= units) return;
  const Scalar weight = static_cast<Scalar>(layer.at(unit, k));
  transposed[k * units + unit] = weight;
  if (weighted) weighted[at] = last[unit] * weight;
}

// [dW1, db1] = w D, dw_u = <W_u, D_u>. A warp for each unit.
template <class Scalar>
__global__ void finish_inner_layer(InnerLayer layer, const Scalar* last, const Scalar* sums, int64_t pitch,
                                   JointGradients g) {
  const int64_t unit = global_thread() / 32, width = layer.weight.width;
  if (unit >= layer.weight.count) return;
  double inner = 0;
  for (int64_t k = threadIdx.x % 32; k <= width; k += 32) {
    const Scalar sum = sums[unit * pitch + k];
    inner += layer.at(unit, k) * static_cast<double>(sum);
    if (k < width)
      static_cast<Scalar*>(g.inner_weight)[unit * width + k] = last[unit] * sum;
    else
      static_cast<Scalar*>(g.inner_bias)[unit] = last[unit] * sum;
  }
  for (int mask = 16; mask > 0; mask /= 2) inner += __shfl_xor_sync(~0u, inner, mask);
  if (threadIdx.x % 32 == 0) static_cast<Scalar*>(g.last_weight)[unit] = static_cast<Scalar>(inner);
}

// `wanted` parts, at most one for each of `count`; all of them have something to do.
struct Parts {
  int64_t each, count;

  Parts(int64_t length, int64_t wanted)
      : each(ceil_div(length, std::clamp<int64_t>(wanted, 1, length))), count(ceil_div(length, each)) {}
};

InnerLayer inner_layer(const DeviceJointProblem& p) {
  return {rows_of(p.inner_weight, p.dtype, p.hidden), rows_of(p.inner_bias, p.dtype, p.inner())};
}

constexpr int64_t kBlocksEach = 4;  // of threads, wanted for each multiprocessor

template <class Scalar>
LayerParams<Scalar> layer_params(const TwoHiddenLayers<Scalar>& c, const PairBlock& block) {
  using Tile = LayerTile<Scalar>;
  return {c.queries + block.first_row * c.pitch,
          c.candidates + block.first_column * c.pitch,
          c.pitch,
          ceil_div(c.p.hidden + 1, Tile::kDepth) * Tile::kDepth,
          c.inner,
          c.last,
          c.units,
          c.p.inner(),
          block,
          c.signs};
}

}  // namespace

template <class Scalar>
TwoHiddenLayers<Scalar>::TwoHiddenLayers(const DeviceJointProblem& p, const PairBlocks& blocks, bool gradient,
                                         Arena& arena)
    : p(p), blocks(blocks) {
  using Tile = LayerTile<Scalar>;
  pitch = ceil_div(p.hidden + 1, Tile::kUnits) * Tile::kUnits;
  units = ceil_div(p.inner(), Tile::kUnits) * Tile::kUnits;
  queries = arena.take<Scalar>(PairBlocks::round_up(p.n()) * pitch);
  candidates = arena.take<Scalar>(PairBlocks::round_up(p.m()) * pitch);
  inner = arena.take<Scalar>(pitch * units);
  last = arena.take<Scalar>(units);
  if (!gradient) return;
  const int64_t blocks_wanted = kBlocksEach * p.multiprocessors;
  const int64_t weight_tiles = units / Tile::kUnits * ceil_div(p.hidden + 1, Tile::kFew);
  weight_splits = Parts(blocks.pairs() / Tile::kDepth, blocks_wanted / weight_tiles).count;
  const int64_t groups = std::max<int64_t>(1, blocks_wanted / ceil_div(p.hidden, Tile::kUnits));
  row_groups = 1;
  while (4 * row_groups * row_groups <= groups && 2 * row_groups <= blocks.rows / Tile::kRows) row_groups *= 2;
  column_groups = std::clamp<int64_t>(groups / row_groups, 1, blocks.columns / Tile::kColumns);
  weighted = arena.take<Scalar>(units * pitch);
  signs = arena.take<uint8_t>(blocks.pairs() * units / Tile::kBits);
  weight_parts = arena.take<Scalar>(weight_splits * units * pitch);
  weight_sums = arena.take<Scalar>(units * pitch);
  query_parts = arena.take<Scalar>(column_groups * blocks.rows * pitch);
  candidate_parts = arena.take<Scalar>(row_groups * blocks.columns * pitch);
}

template <class Scalar>
void TwoHiddenLayers<Scalar>::prepare(Queue& queue, const JointGradients* g) const {
  const int64_t rows = PairBlocks::round_up(p.n()), columns = PairBlocks::round_up(p.m());
  queue.each(rows * pitch, append_unit<Scalar>, rows_of(p.queries, p.dtype, p.hidden), Scalar(1), rows, pitch, queries);
  queue.each(columns * pitch, append_unit<Scalar>, rows_of(p.candidates, p.dtype, p.hidden), Scalar(0), columns, pitch,
             candidates);
  queue.each(units, copy_scaled<Scalar>, rows_of(p.last_weight, p.dtype, p.inner()), Scalar(1), units, last);
  queue.each(units * pitch, spread_inner_layer<Scalar>, inner_layer(p), static_cast<const Scalar*>(last), units, pitch,
             inner, weighted);
  if (!g) return;
  const auto clear = [&](void* out, int64_t count) {
    queue.each(count, fill<Scalar>, static_cast<Scalar*>(out), count, Scalar(0));
  };
  clear(g->queries, p.n() * p.hidden);
  clear(g->candidates, p.m() * p.hidden);
  clear(weight_sums, p.inner() * pitch);
}

template <class Scalar>
void TwoHiddenLayers<Scalar>::scores(Queue& queue, const PairBlock& block) const {
  using Tile = LayerTile<Scalar>;
  const dim3 grid(static_cast<unsigned>(ceil_div(block.rows, Tile::kRows)),
                  static_cast<unsigned>(ceil_div(block.columns, Tile::kColumns)));
  queue.launch(grid, kThreads, two_layer_scores<Scalar>, layer_params(*this, block));
}

template <class Scalar>
void TwoHiddenLayers<Scalar>::positives(Queue& queue, double* out) const {
  queue.each(16 * p.n(), two_layer_positives<Scalar>, layer_params(*this, {0, p.n(), 0, p.m()}), p.exclusions.target,
             out);
}

template <class Scalar>
void TwoHiddenLayers<Scalar>::switch_units(Queue& queue, const PairBlock& block) const {
  PairBlock without_values = block;
  without_values.values = nullptr;
  scores(queue, without_values);
}

template <class Scalar>
void TwoHiddenLayers<Scalar>::add_gradients(Queue& queue, const PairBlock& block, const JointGradients& g) const {
  using Tile = LayerTile<Scalar>;
  const Scalar *a = queries + block.first_row * pitch, *b = candidates + block.first_column * pitch;
  const int64_t hidden_tiles = ceil_div(p.hidden, Tile::kUnits);

  const Parts splits(block.rows * ceil_div(block.columns, Tile::kDepth), weight_splits);
  const dim3 weight_grid(static_cast<unsigned>(units / Tile::kUnits),
                         static_cast<unsigned>(ceil_div(p.hidden + 1, Tile::kFew)),
                         static_cast<unsigned>(splits.count));
  queue.launch(weight_grid, kThreads, two_layer_weight_sums<Scalar>,
               LayerSumParams<Scalar>{a, b, pitch, units, block, signs, splits.each, weight_parts});
  enqueue_add_parts(queue, PartialSums<Scalar>{weight_parts, splits.count, units, pitch}, p.inner(), p.hidden + 1,
                    weight_sums, pitch);

  const Parts rows(ceil_div(block.rows, Tile::kRows), row_groups);
  const Parts columns(ceil_div(block.columns, Tile::kColumns), column_groups);
  const dim3 hidden_grid(static_cast<unsigned>(hidden_tiles), static_cast<unsigned>(rows.count),
                         static_cast<unsigned>(columns.count));
  queue.launch(hidden_grid, kThreads, two_layer_hidden_sums<Scalar>,
               HiddenSumParams<Scalar>{a, b, pitch, units, weighted, block, signs, rows.each * Tile::kRows,
                                       columns.each * Tile::kColumns, query_parts, candidate_parts});
  enqueue_add_parts(queue, PartialSums<Scalar>{query_parts, columns.count, block.rows, pitch}, block.rows, p.hidden,
                    static_cast<Scalar*>(g.queries) + block.first_row * p.hidden, p.hidden);
  enqueue_add_parts(queue, PartialSums<Scalar>{candidate_parts, rows.count, block.columns, pitch}, block.columns,
                    p.hidden, static_cast<Scalar*>(g.candidates) + block.first_column * p.hidden, p.hidden);
}

template <class Scalar>
void TwoHiddenLayers<Scalar>::finish(Queue& queue, const JointGradients& g) const {
  queue.each(32 * p.inner(), finish_inner_layer<Scalar>, inner_layer(p), static_cast<const Scalar*>(last),
             static_cast<const Scalar*>(weight_sums), pitch, g);
}

template struct TwoHiddenLayers<float>;
template struct TwoHiddenLayers<double>;

}  // namespace mi::cuda
