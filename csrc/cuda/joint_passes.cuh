// Passes over all pairs, block by block: a critic makes scores, a kernel reduces them or turns them into weights, and
// the critic takes the weights for its gradients.
#pragma once
#include "joint_one_layer.h"
#include "joint_scores.cuh"
#include "joint_two_layers.h"

namespace mi::cuda {

template <class Critic>
struct JointWalk {
  using Scalar = typename Critic::Scalar;
  const DeviceJointProblem& p;
  PairBlocks blocks;
  Critic critic;
  Scalar* values;  // of a block, unless they lie in a matrix

  JointWalk(const DeviceJointProblem& p, bool gradient, bool matrix, Arena& arena)
      : p(p),
        blocks(p.n(), p.m(), Critic::kPairsEach * p.multiprocessors),
        critic(p, blocks, gradient, arena),
        values(matrix ? nullptr : arena.take<Scalar>(blocks.pairs())) {}
  JointWalk(const JointWalk&) = delete;

  template <class Body>
  void each_block(Body&& body) const {
    blocks.each(values, false, body);
  }
  template <class Body>
  void each_block_of(Scalar* matrix, Body&& body) const {
    blocks.each(matrix, true, body);
  }
  int64_t row_parts() const { return ceil_div(blocks.columns, kPartColumns); }
  int64_t column_parts() const { return ceil_div(blocks.rows, kPartRows); }
};

inline dim3 row_grid(const PairBlock& block) {
  return dim3(static_cast<unsigned>(ceil_div(block.rows, kRowsTogether)),
              static_cast<unsigned>(ceil_div(block.columns, kPartColumns)));
}
inline dim3 column_grid(const PairBlock& block, int rows) {
  return dim3(static_cast<unsigned>(ceil_div(block.columns, kRowThreads)),
              static_cast<unsigned>(ceil_div(block.rows, rows)));
}

// What becomes of rows, or of columns, over all blocks: totals, and the parts that a block adds to them.
template <class Scalar>
struct Totals {
  int64_t count;
  RowPart<double>* totals;
  RowPart<Scalar>* parts;

  Totals(int64_t count, int64_t parts_of_block, Arena& arena)
      : count(count), totals(arena.take<RowPart<double>>(count)), parts(arena.take<RowPart<Scalar>>(parts_of_block)) {}

  void clear(Queue& queue, RowPart<double> unit) const {
    queue.each(count, fill<RowPart<double>>, totals, count, unit);
  }
  void write_log_sum_exps(Queue& queue, double* lse) const {
    queue.each(count, join_rows<double>, static_cast<const void*>(totals), 1, count, lse);
  }
};

// Statistics, block by block.
template <class Critic>
struct StatisticsPass {
  using Scalar = typename Critic::Scalar;
  const JointWalk<Critic>& walk;
  bool columns_too;
  Totals<Scalar> rows, columns;

  StatisticsPass(const JointWalk<Critic>& walk, bool columns_too, Arena& arena)
      : walk(walk),
        columns_too(columns_too),
        rows(walk.p.n(), walk.row_parts() * walk.blocks.rows, arena),
        columns(columns_too ? walk.p.m() : 0, columns_too ? walk.column_parts() * walk.blocks.columns : 0, arena) {}

  void run(Queue& queue, const JointStatistics& s) const {
    const DeviceJointProblem& p = walk.p;
    const Negatives<Scalar> negatives{p.exclusions, p.bias, s.clip};
    double* positive = p.exclusions.target ? s.positive : nullptr;
    constexpr RowPart<double> kNothing{kLowestReference, 0};
    rows.clear(queue, kNothing), columns.clear(queue, kNothing);
    if (positive)
      queue.each(p.n(), fill<double>, positive, p.n(), __builtin_nan(""));  // where a target is no candidate
    walk.each_block([&](const PairBlock& block) {
      walk.critic.scores(queue, block);
      queue.launch(row_grid(block), kRowThreads, row_log_sum_exps<Scalar>, block, negatives, positive, rows.parts);
      queue.each(block.rows, add_log_sum_exps<Scalar>, static_cast<const RowPart<Scalar>*>(rows.parts),
                 static_cast<int>(row_grid(block).y), block.rows, rows.totals + block.first_row);
      if (!columns_too) return;
      const dim3 grid = column_grid(block, kPartRows);
      queue.launch(grid, kRowThreads, column_log_sum_exps<Scalar>, block, negatives, columns.parts);
      queue.each(block.columns, add_log_sum_exps<Scalar>, static_cast<const RowPart<Scalar>*>(columns.parts),
                 static_cast<int>(grid.y), block.columns, columns.totals + block.first_column);
    });
    rows.write_log_sum_exps(queue, s.negative_lse);
    if (columns_too) columns.write_log_sum_exps(queue, s.column_negative_lse);
  }
};

// Gradients from those of the statistics, block by block.
template <class Critic>
struct GradientPass {
  using Scalar = typename Critic::Scalar;
  const JointWalk<Critic>& walk;
  Weight<Scalar>*rows, *columns;

  GradientPass(const JointWalk<Critic>& walk, Arena& arena)
      : walk(walk), rows(arena.take<Weight<Scalar>>(walk.p.n())), columns(arena.take<Weight<Scalar>>(walk.p.m())) {}

  // kept: the scores of the only block are there already.
  void run(Queue& queue, const UpstreamGradients& up, const JointGradients& g, bool kept) const {
    const DeviceJointProblem& p = walk.p;
    const Negatives<Scalar> negatives{p.exclusions};
    const Weight<Scalar>* row_weights = weights(queue, up.negative_lse_value, up.negative_lse, p.n(), rows);
    const Weight<Scalar>* column_weights =
        weights(queue, up.column_negative_lse_value, up.column_negative_lse, p.m(), columns);
    walk.each_block([&](const PairBlock& block) {
      if (!kept) walk.critic.scores(queue, block);
      queue.launch(column_grid(block, kWeightRows), kRowThreads, weigh<Scalar>, block, negatives, row_weights,
                   column_weights, up.positive);
      walk.critic.add_gradients(queue, block, g);
    });
    walk.critic.finish(queue, g);
  }

 private:
  static const Weight<Scalar>* weights(Queue& queue, const double* lse, const double* gradient, int64_t count,
                                       Weight<Scalar>* out) {
    if (!lse || !gradient) return nullptr;
    queue.each(count, make_weights<Scalar>, lse, gradient, count, out);
    return out;
  }
};

}  // namespace mi::cuda
