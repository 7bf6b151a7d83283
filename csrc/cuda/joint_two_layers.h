// The joint critic with two hidden layers, for a block of pairs at a time. The bias of the inner layer is the weight of
// one more hidden unit, which is always 1: H_pk = relu(a_ik + b_jk) of pair p = (i, j), H_ph = 1, W = [W1, b1].
//   scores:    Z = H W^T [pairs, h1],   s = relu(Z) w;   of Z only the signs are kept, a bit a unit.
//   gradient:  M = G_p 1[Z > 0],   D = M^T H,   [dW1, db1] = w D,   dw_u = <W_u, D_u>,
//              dH = M (w W) where H > 0,   da_i = sum_j dH,   db_j = sum_i dH.
#pragma once
#include "arena.h"
#include "enqueue.cuh"
#include "joint_block.h"

namespace mi::cuda {

template <class Scalar_>
struct TwoHiddenLayers {
  using Scalar = Scalar_;
  static constexpr int64_t kPairsEach = 1 << 13;  // of a block, for each multiprocessor

  const DeviceJointProblem& p;
  const PairBlocks& blocks;
  int64_t pitch;                      // h + 1, as whole tiles
  int64_t units;                      // h1, as whole tiles
  int weight_splits;                  // parts of the pairs, for D
  int row_groups, column_groups;      // of pairs, for da and db
  Scalar *queries, *candidates;       // [a, 1], [b, 0] [rows][pitch]
  Scalar* inner;                      // W^T [pitch][units]
  Scalar* last;                       // w [units]
  Scalar* weighted = nullptr;         // w W [units][pitch]
  uint8_t* signs = nullptr;           // 1[Z > 0] of a block [pairs][bytes]
  Scalar* weight_parts = nullptr;     // D of a block [splits][units][pitch]
  Scalar* weight_sums = nullptr;      // D [units][pitch]
  Scalar* query_parts = nullptr;      // da of a block [column groups][rows][pitch]
  Scalar* candidate_parts = nullptr;  // db of a block [row groups][columns][pitch]

  TwoHiddenLayers(const DeviceJointProblem&, const PairBlocks&, bool gradient, Arena&);
  void prepare(Queue&, const JointGradients*) const;
  void scores(Queue&, const PairBlock&) const;  // into the block's values
  void positives(Queue&, double* out) const;    // [n] of the targets, by the arithmetic of `scores`; NaN: no candidate
  void switch_units(Queue&, const PairBlock&) const;                          // what add_gradients needs of `scores`
  void add_gradients(Queue&, const PairBlock&, const JointGradients&) const;  // the values are G
  void finish(Queue&, const JointGradients&) const;
};

}  // namespace mi::cuda
