// The joint critic with one hidden layer, s_ij = sum_k w_k relu(a_ik + b_jk), for a block of pairs at a time.
//   scores:    with t_k = max_i a_ik, a' = a - t <= 0 and e = min(-(b + t), 0):  relu(a + b) = max(a', e) - e, so that
//              a unit of a pair costs a comparison and a multiply-add, sum_k w_k e_jk being known beforehand. A unit
//              that candidate j turns off for all queries adds exactly 0.
//   gradient:  U_ik = sum_j G_ij 1[a_ik > -b_jk],  V_jk = sum_i G_ij 1[b_jk > -a_ik]: a comparison and an addition
//   each;
//              da = w U,  db = w V,  dw_k = sum_i a_ik U_ik + sum_j b_jk V_jk.
#pragma once
#include "arena.h"
#include "enqueue.cuh"
#include "joint_block.h"

namespace mi::cuda {

template <class Scalar_>
struct OneHiddenLayer {
  using Scalar = Scalar_;
  static constexpr int64_t kPairsEach = 1 << 16;  // of a block, for each multiprocessor

  const DeviceJointProblem& p;
  const PairBlocks& blocks;
  bool gradient;
  int64_t units;  // h, as whole steps of a tile
  int64_t query_pitch, candidate_pitch, unit_pitch;
  int query_splits, candidate_splits;
  Scalar *highest, *highest_parts;       // t [h], of groups of queries [groups][h]
  Scalar* weight;                        // w [units]
  Scalar *queries, *candidates;          // a' [units][query_pitch], e [units][candidate_pitch]
  Scalar* offset;                        // -sum_k w_k e_jk [candidate_pitch]
  Scalar* negated_queries = nullptr;     // -a [n][unit_pitch]
  Scalar* negated_candidates = nullptr;  // -b [m][unit_pitch]
  Scalar* parts = nullptr;               // U or V of a block [splits][rows][unit_pitch]
  double* weight_parts = nullptr;        // of dw [groups of queries, then of candidates][h]

  OneHiddenLayer(const DeviceJointProblem&, const PairBlocks&, bool gradient, Arena&);
  void prepare(Queue&, const JointGradients*) const;
  void scores(Queue&, const PairBlock&) const;  // into the block's values
  void positives(Queue&, double* out) const;    // [n] of the targets, by the arithmetic of `scores`; NaN: no candidate
  void switch_units(Queue&, const PairBlock&) const {}                        // what add_gradients needs of `scores`
  void add_gradients(Queue&, const PairBlock&, const JointGradients&) const;  // the values are G
  void finish(Queue&, const JointGradients&) const;
};

}  // namespace mi::cuda
