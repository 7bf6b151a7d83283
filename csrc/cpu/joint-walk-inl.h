// A walk over the scores of a joint critic: threads own blocks of queries, a tile of scores lies in memory. Critic,
// OneHiddenLayer or TwoHiddenLayers, makes tiles of scores and takes tiles of weights G = dL/ds.
#pragma once
#include <algorithm>
#include <memory>

#include "score-rows-inl.h"

namespace mi {
namespace MI_ISA {

// dL/ds of the positive, where it lies in these columns.
template <class T>
MI_INLINE void set_positive_weight(const JointProblem& p, int64_t i, Range columns, T* weights, double gradient) {
  if (p.exclusions.target == nullptr) return;
  const int64_t target = p.exclusions.target[i];
  if (target >= columns.first && target < columns.last) weights[target - columns.first] = static_cast<T>(gradient);
}

template <class Critic>
struct JointWalk {
  using T = typename Critic::Scalar;
  static constexpr int64_t kColumns = Critic::kColumns, kTile = Critic::kRows * kColumns;

  const JointProblem& p;
  bool gradient;
  bool keep_tiles = false;  // all tiles of a block of queries, not the latest alone
  int slot_count = slots_for(p.threads, p.n());
  Critic critic{p};
  std::unique_ptr<typename Critic::Slot[]> slots{new typename Critic::Slot[slot_count]};
  T* tiles = nullptr;  // [slots][tiles kept][kRows][kColumns]

  // Tiles of equal width up to a unit: a narrow last one would waste the products.
  int64_t tile_width() const {
    const int64_t count = (p.m() + kColumns - 1) / kColumns;
    return count == 0 ? kColumns : smaller(round_up((p.m() + count - 1) / count, Critic::kColumnUnit), kColumns);
  }
  int64_t tiles_kept() const { return keep_tiles ? (p.m() + tile_width() - 1) / tile_width() : 1; }
  int64_t bytes_kept() const { return tiles_kept() * kTile * static_cast<int64_t>(sizeof(T)); }

  void place(Arena& arena) {
    critic.place(gradient, arena);
    for (int s = 0; s < slot_count; s++) critic.place_slot(slots[s], gradient, arena);
    tiles = arena.take<T>(slot_count * tiles_kept() * kTile);
  }

  void prepare() {
    critic.prepare_weights(gradient, slots[0]);
    for_slots(slot_count,
              [&](int s) { critic.prepare(slots[s], part_of(p.m(), s, slot_count, Critic::kPanel), gradient); });
  }

  // Of every block of queries: tile(slot, rows, columns, scores) for each tile, then after(slot, rows).
  template <class OnTile, class After>
  void run(OnTile&& on_tile, After&& after) {
    prepare();
    for_slots(slot_count, [&](int s) {
      const Range share = part_of(p.n(), s, slot_count, 1);
      for (int64_t i = share.first; i < share.last; i += Critic::kRows) {
        const Range rows{i, smaller(i + Critic::kRows, share.last)};
        critic.begin(slots[s], i, rows.size(), gradient);
        for_tiles(s, [&](Range columns, T* scores) {
          critic.scores(slots[s], columns.first, columns.size(), scores);
          on_tile(s, rows, columns, scores);
        });
        after(s, rows);
      }
    });
  }

  // body(columns, tile).
  template <class Body>
  void for_tiles(int s, Body&& body) const {
    T* tile = tiles + s * tiles_kept() * kTile;
    for (int64_t j = 0; j < p.m(); j += tile_width(), tile += keep_tiles ? kTile : 0)
      body(Range{j, smaller(j + tile_width(), p.m())}, tile);
  }

  // body(i, row i of the tile).
  template <class Body>
  static void for_rows(Range rows, T* tile, Body&& body) {
    for (int64_t i = rows.first; i < rows.last; i++) body(i, tile + (i - rows.first) * kColumns);
  }

  void add_gradients(int s, Range columns, const T* weights) const {
    critic.add_gradients(slots[s], columns.first, columns.size(), weights);
  }

  void finish(const JointGradients& g) const {
    for_slots(slot_count, [&](int s) { critic.finish(slots.get(), s, slot_count, g); });
  }
};

}  // namespace MI_ISA
}  // namespace mi
