// Tiles of two score matrices with the same candidates: sums of their exponentials and of those of their sum, and the
// weights of both in a gradient,
//   G'_ij = g'_i e^{s'_ij + v_j - a'_i} + g*_i e^{s'_ij + s''_ij + v_j - a*_i},   G'' alike.
#pragma once
#include "gradient-inl.h"

namespace mi {
namespace MI_ISA {

// Both score tiles before their log-weights, so that v_j enters the joint score once.
template <class T>
struct ScorePairs {
  using Scalar = T;

  const BlockScores<T> side[2];
  const TileExclusions<T> log_weights;

  int64_t vectors() const { return side[0].vectors(); }
  template <class Body>
  void for_sides(Body&& body) const {
    for (const BlockScores<T>& scores : side) body(scores);
  }
};

template <class T, int kRows, int kVectors>
MI_INLINE Tile<T, kRows, kVectors> joint_tile(const Tile<T, kRows, kVectors>& a, const Tile<T, kRows, kVectors>& b) {
  Tile<T, kRows, kVectors> sum;
  for (int r = 0; r < kRows; r++)
    for (int v = 0; v < kVectors; v++) sum.at[r][v] = a.at[r][v] + b.at[r][v];
  return sum;
}

// kept: E', E'' and E* [candidates][kQueryBlock] of the block, for kKeep; candidate j has row `row` there.
template <bool kKeep, class T, int kRows, int kVectors>
MI_NOINLINE void importance_sum_tile(const ScorePairs<T>& scores, const RowSums<T>* sums, T* const* kept, int64_t j,
                                     int64_t row, int64_t vector) {
  auto first = scores.side[0].template tile<kRows, kVectors>(j, vector);
  auto second = scores.side[1].template tile<kRows, kVectors>(j, vector);
  auto joint = joint_tile(first, second);
  const int64_t lane = vector * kLanes<T>;
  int k = 0;
  for (auto* s : {&first, &second, &joint}) {
    scores.log_weights.apply(*s, j, lane);
    if constexpr (kKeep)
      exponentiate_rows<true>(*s, sums[k], Referenced<T>{kept[k], row}, lane, kept[k] + row * kQueryBlock);
    else
      exponentiate_rows<false>(*s, sums[k], Referenced<T>{}, lane, static_cast<T*>(nullptr));
    k++;
  }
}

// What makes the weights of a block's scores, by query.
template <class T>
struct ImportanceFactors {
  T* reference[3] = {};  // of a', a'', a*
  T* own[2] = {};        // g', g''
  T* joint[2] = {};      // g* for s' and for s'', 0 where the weights are detached
  bool flows[2] = {};    // some weight is not 0

  void place(Arena& arena) {
    for (T*& t : reference) t = arena.take<T>(kQueryBlock);
    for (T*& t : own) t = arena.take<T>(kQueryBlock);
    for (T*& t : joint) t = arena.take<T>(kQueryBlock);
  }
  void clear() {
    for (int64_t b = 0; b < kQueryBlock; b++) {
      for (T* t : reference) t[b] = std::numeric_limits<T>::max();
      own[0][b] = own[1][b] = joint[0][b] = joint[1][b] = 0;
    }
    flows[0] = flows[1] = false;
  }
  void set(int64_t b, const Normalizer<T> (&n)[3], bool weights_detached) {
    for (int k = 0; k < 3; k++) reference[k][b] = n[k].reference;
    own[0][b] = n[0].factor, own[1][b] = n[1].factor;
    joint[0][b] = n[2].factor, joint[1][b] = weights_detached ? T(0) : n[2].factor;
    for (int h = 0; h < 2; h++) flows[h] |= own[h][b] != 0 || joint[h][b] != 0;
  }
};

// G' and G'' of a tile.
template <class T, int kRows, int kVectors>
MI_NOINLINE void importance_weight_tile(const ScorePairs<T>& scores, const ImportanceFactors<T>& f, int64_t j,
                                        int64_t vector, T* first_out, T* second_out) {
  auto first = scores.side[0].template tile<kRows, kVectors>(j, vector);
  auto second = scores.side[1].template tile<kRows, kVectors>(j, vector);
  auto joint = joint_tile(first, second);
  const int64_t lane = vector * kLanes<T>;
  for (auto* s : {&first, &second, &joint}) scores.log_weights.apply(*s, j, lane);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; v++) {
    const int64_t at = lane + v * kLanes<T>;
    const Vec<T> r1 = load(f.reference[0] + at), r2 = load(f.reference[1] + at), r3 = load(f.reference[2] + at);
    const Vec<T> g1 = load(f.own[0] + at), g2 = load(f.own[1] + at);
    const Vec<T> joint1 = load(f.joint[0] + at), joint2 = load(f.joint[1] + at);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++) {
      const Vec<T> e = exp2<T>(joint.at[r][v] - r3);
      store(first_out + r * kQueryBlock + at, g1 * exp2<T>(first.at[r][v] - r1) + joint1 * e);
      store(second_out + r * kQueryBlock + at, g2 * exp2<T>(second.at[r][v] - r2) + joint2 * e);
    }
  }
}

// The same from E', E'' and E*, in the place of the first two.
template <class T>
MI_NOINLINE void weigh_exponentials(const ImportanceFactors<T>& f, int64_t vectors, int64_t candidates, T* first,
                                    T* second, const T* joint) {
  const int64_t lanes = vectors * kLanes<T>;
  for (int64_t row = 0; row < candidates * kQueryBlock; row += kQueryBlock)
    for (int64_t lane = 0; lane < lanes; lane += kLanes<T>) {
      const int64_t at = row + lane;
      const Vec<T> e = load(joint + at);
      store(first + at, load(f.own[0] + lane) * load(first + at) + load(f.joint[0] + lane) * e);
      store(second + at, load(f.own[1] + lane) * load(second + at) + load(f.joint[1] + lane) * e);
    }
}

}  // namespace MI_ISA
}  // namespace mi
