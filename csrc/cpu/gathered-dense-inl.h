// The gradient of a bank from the scores of all its rows with all queries: dy = W^T x, w_ij = c_ij w(s_ij), where c_ij
// counts how often the index of query i has row j. A pair of a dense product takes a fraction of the time of a gathered
// one, since operands wait in registers and the queries need not be sorted by row: that pays where the index of a query
// has a good part of the bank.
#pragma once
#include "gathered_candidates-inl.h"

namespace mi {
namespace MI_ISA {

template <class T, class Weights>
struct DenseCandidateWalk {
  static constexpr int kLog2Rows = 6;
  static constexpr int64_t kRows = int64_t{1} << kLog2Rows;  // of a block of the bank
  static constexpr int64_t kPairsForEach = 4;                // products for each that is asked for, that pay

  struct Slot {
    T* rows = nullptr;    // y [kRows][dim], where the bank is of another type
    T* weight = nullptr;  // c, then W [kRows][kPanel]
    T* sum = nullptr;     // dy [kRows][width]
  };

  const GatheredProblem& p;
  const Weights& weights;
  T* out;  // dy [V, d]
  BankBlocks blocks{p, kLog2Rows};
  int slot_count = p.threads;
  int64_t width = padded<T>(p.dim);
  bool in_place = p.dtype == (sizeof(T) == 8 ? Dtype::kFloat64 : Dtype::kFloat32);
  std::unique_ptr<Slot[]> slots{new Slot[slot_count]};
  T* queries = nullptr;  // x of a group [queries][width]
  T* panels = nullptr;   // the same [panels][dim][kPanel]

  // A product has all its terms: 0 times a query that is not finite would not be 0.
  bool pays() const {
    return p.index && blocks.count >= p.threads &&
           padded<T>(p.n()) * p.candidates.rows < kPairsForEach * p.n() * p.m() && queries_are_finite();
  }

  bool queries_are_finite() const {
    T row[kChunk];
    bool finite = true;
    for (int64_t i = 0; i < p.n(); i++)
      for (int64_t first = 0; first < p.dim; first += kChunk) {
        const int64_t count = smaller(kChunk, p.dim - first);
        convert(row, p.queries, p.dtype, i, first, count);
        for (int64_t k = 0; k < count; k++) finite &= row[k] * 0 == 0;
      }
    return finite;
  }

  void place(Arena& arena) {
    blocks.place(arena);
    queries = arena.take<T>(blocks.queries * width);
    panels = arena.take<T>(round_up(blocks.queries, kPanel<T>) * p.dim);
    for (int s = 0; s < slot_count; s++) {
      if (!in_place) slots[s].rows = arena.take<T>(kRows * p.dim);
      slots[s].weight = arena.take<T>(kRows * kPanel<T>);
      slots[s].sum = arena.take<T>(kRows * width);
    }
  }

  void walk() {
    for (int64_t i = 0; i < p.n(); i += blocks.queries) {
      const Range group{i, smaller(i + blocks.queries, p.n())};
      for_slots(slot_count, [&](int s) {
        fill_panels(group, part_of(round_up(group.size(), kPanel<T>), s, slot_count, kPanel<T>));
      });
      for (int64_t k = 0; k < p.m(); k += blocks.negatives) {
        blocks.sort_all(group, {k, smaller(k + blocks.negatives, p.m())}, slot_count);
        for_slots(slot_count, [&](int s) {
          const Range share = part_of(blocks.count, s, slot_count, 1);
          for (int64_t b = share.first; b < share.last; b++) add_block(slots[s], b, group, i == 0 && k == 0);
        });
      }
    }
  }

  void fill_panels(Range group, Range columns) const {
    for (int64_t q = columns.first; q < columns.last; q++) {
      T* const column = panels + q / kPanel<T> * kPanel<T> * p.dim + q % kPanel<T>;
      T* const x = queries + q * width;
      const bool inside = q < group.size();
      if (inside) {
        convert(x, p.queries, p.dtype, group.first + q, 0, p.dim);
        std::fill_n(x + p.dim, width - p.dim, T(0));
      }
      for (int64_t k = 0; k < p.dim; k++) column[k * kPanel<T>] = inside ? x[k] : T(0);
    }
  }

  void add_block(const Slot& slot, int64_t b, Range group, bool first) const {
    const Features bank = blocks.rows(b);
    const T* y = static_cast<const T*>(bank.data);
    int64_t pitch = bank.pitch;
    if (!in_place) {
      for (int64_t r = 0; r < bank.rows; r++) convert(slot.rows + r * p.dim, bank, p.dtype, r, 0, p.dim);
      y = slot.rows, pitch = p.dim;
    }
    T* const dy = out + b * kRows * p.dim;
    const bool more = in_place && (b + 2) * kRows <= p.candidates.rows;
    std::memset(slot.sum, 0, kRows * width * sizeof(T));
    for (int64_t q = 0; q < group.size(); q += kPanel<T>) {
      const int64_t count = smaller(kPanel<T>, group.size() - q);
      count_uses(slot, b, {q, q + count});
      for_vector_tiles(padded<T>(count) / kLanes<T>, [&](auto vectors, int64_t v) {
        const int64_t lane = v * kLanes<T>;
        for_row_tiles(bank.rows, [&](auto rows, int64_t r) {
          if (q + lane == 0) fetch_rows<1>(dy + r * p.dim, p.dim, rows());
          weight_tile<rows(), vectors()>(y + r * pitch, pitch, panels + q * p.dim + lane, group.first + q + lane,
                                         slot.weight + r * kPanel<T> + lane);
        });
      });
      for_vector_tiles(width / kLanes<T>, [&](auto vectors, int64_t v) {
        const int64_t lane = v * kLanes<T>;
        for_row_tiles(bank.rows, [&](auto rows, int64_t r) {
          if (q + lane == 0 && more) fetch_rows<0>(y + (kRows + r) * pitch, p.dim, rows());
          multiply_add_tile<T, rows(), vectors()>(slot.weight + r * kPanel<T>, kPanel<T>, 1, queries + q * width + lane,
                                                  width, count, slot.sum + r * width + lane, width);
        });
      });
    }
    for (int64_t r = 0; r < bank.rows; r++) {
      T* const row = dy + r * p.dim;
      const T* const sum = slot.sum + r * width;
      for (int64_t k = 0; k < p.dim; k++) row[k] = (first ? T(0) : row[k]) + sum[k];
    }
  }

  // Calls for what will be needed when the next products are done.
  template <int kWrite>
  static void fetch_rows(const T* from, int64_t pitch, int64_t rows) {
    for (int64_t k = 0; k < rows * pitch; k += kCacheLine / sizeof(T)) __builtin_prefetch(from + k, kWrite, 2);
  }

  void count_uses(const Slot& slot, int64_t b, Range queries_of_group) const {
    std::memset(slot.weight, 0, kRows * kPanel<T> * sizeof(T));
    for (int64_t q = queries_of_group.first; q < queries_of_group.last; q++) {
      T* const uses = slot.weight + (q - queries_of_group.first);
      const uint16_t* const row = blocks.row + q * blocks.negatives;
      const Range range = blocks.range(q, b);
      for (int64_t k = range.first; k < range.last; k++) uses[row[k] * kPanel<T>] += 1;
    }
  }

  // c of rows of the bank by queries becomes W, scale included; 0 where a query does not have the row, be its score
  // NaN.
  template <int kTileRows, int kVectors>
  __attribute__((noinline)) void weight_tile(const T* y, int64_t pitch, const T* x, int64_t query, T* weight) const {
    const T factor = static_cast<T>(p.scale * kLog2E), bias = static_cast<T>(p.bias * kLog2E);
    auto score = Tile<T, kTileRows, kVectors>::zero();
    score.multiply_add(y, pitch, 1, x, kPanel<T>, p.dim);
#pragma GCC unroll 6
    for (int r = 0; r < kTileRows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) {
        T* const at = weight + r * kPanel<T> + v * kLanes<T>;
        const Vec<T> times = load(at);
        const Vec<T> one = weights.of(score.at[r][v] * factor + bias, query + v * kLanes<T>);
        store(at, times > 0 ? times * static_cast<T>(p.scale) * one : Vec<T>{});
      }
  }
};

// dy for weights w of gathered scores.
template <class T, class Weights>
void write_candidate_gradients(const GatheredProblem& p, const Weights& weights, void* out) {
  const auto run = [](auto&& walk) {
    Workspace workspace([&](Arena& arena) { walk.place(arena); });
    walk.walk();
  };
  DenseCandidateWalk<T, Weights> dense{p, weights, static_cast<T*>(out)};
  if (dense.pays()) return run(dense);
  run(CandidateWalk<T, Weights>{p, weights, static_cast<T*>(out)});
}

}  // namespace MI_ISA
}  // namespace mi
