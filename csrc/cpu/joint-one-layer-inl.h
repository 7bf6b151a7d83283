// The joint critic with one hidden layer, s_ij = sum_k w_k relu(a_ik + b_jk).
//   forward:   with t_k = max_i a_ik, a' = a - t <= 0 and e = min(-(b + t), 0):  relu(a + b) = max(a', e) - e,  so that
//              w relu(a + b) = max(w a', w e) - w e for w >= 0, and with min for w < 0: one comparison and one addition
//              an element, sum_k w_k e_jk being known beforehand. A unit that candidate j turns off for all queries has
//              e = 0 and adds exactly 0; e = -b would leave a difference of large numbers. Units of w >= 0 and of w < 0
//              alternate, so that their sums do not grow only to cancel.
//   gradient:  U_ik = sum_j G_ij 1[a_ik > -b_jk],  V_jk = sum_i G_ij 1[a_ik > -b_jk];
//              da = w U,  db = w V,  dw_k = sum_i a_ik U_ik + sum_j b_jk V_jk.
#pragma once
#include <algorithm>
#include <numeric>

#include "features-inl.h"
#include "parallel.h"

namespace mi {
namespace MI_ISA {

template <class T>
struct OneHiddenLayer {
  using Scalar = T;
  static constexpr int64_t kRows = 48;
  static constexpr int64_t kColumns = 128;
  static constexpr int64_t kPanel = kVectorsWide * kLanes<T>;
  static constexpr int64_t kColumnUnit = kPanel;
  static constexpr int64_t kRun = 128;    // units summed in registers before they are added to a score
  static constexpr int kUnitVectors = 2;  // units of a chunk, in vectors, and queries: what sums lie in registers
  static constexpr int kUnitRows = kVectorBytes == 64 || kVectorsWide == 4 ? 6 : 4;
  static constexpr int64_t kUnits = kUnitVectors * kLanes<T>;

  struct Slot {
    int64_t first = 0, rows = 0;
    T* row = nullptr;               // of a or b [chunks][kUnits]
    T* scaled = nullptr;            // w a' [kRows][hidden], units in `order`
    T* queries = nullptr;           // a [chunks][kRows][kUnits]
    T* query_sums = nullptr;        // U [chunks][kRows][kUnits]
    T* candidate_sums = nullptr;    // V [chunks][m][kUnits]
    double* last_weight = nullptr;  // [chunks][kUnits] sum_i a U
  };

  const JointProblem& p;
  int64_t chunks = (p.hidden + kUnits - 1) / kUnits;
  int64_t paired = 0;        // units in pairs, one of w >= 0 and one of w < 0; they come first in `order`
  bool rising = false;       // the others have w >= 0
  int64_t* order = nullptr;  // [hidden]
  T* weight = nullptr;       // w [chunks][kUnits]
  T* highest = nullptr;      // t [chunks][kUnits]
  T* offset = nullptr;       // -sum_k w_k e_jk [m]
  T* panels = nullptr;       // w e [panels][hidden][kPanel], units in `order`
  T* negated = nullptr;      // -b [chunks][m][kUnits]

  void place(bool gradient, Arena& arena) {
    order = arena.take<int64_t>(p.hidden);
    weight = arena.take<T>(chunks * kUnits);
    highest = arena.take<T>(chunks * kUnits);
    offset = arena.take<T>(round_up(p.m(), kPanel));
    panels = arena.take<T>(round_up(p.m(), kPanel) * p.hidden);
    if (gradient) negated = arena.take<T>(chunks * p.m() * kUnits);
  }
  void place_slot(Slot& slot, bool gradient, Arena& arena) const {
    slot.row = arena.take<T>(chunks * kUnits);
    slot.scaled = arena.take<T>(kRows * p.hidden);
    if (!gradient) return;
    slot.queries = arena.take<T>(chunks * kRows * kUnits);
    slot.query_sums = arena.take<T>(chunks * kRows * kUnits);
    slot.candidate_sums = arena.take<T>(chunks * p.m() * kUnits);
    slot.last_weight = arena.take<double>(chunks * kUnits);
  }

  // What every slot reads; once, before `prepare`.
  void prepare_weights(bool, Slot& any) {
    convert(weight, p.last_weight, p.dtype, 0, 0, p.hidden);
    for (int64_t k = p.hidden; k < chunks * kUnits; k++) weight[k] = 0;
    const auto rises = [&](int64_t unit) { return !(weight[unit] < 0); };
    std::iota(order, order + p.hidden, int64_t{0});
    const int64_t count = std::count_if(order, order + p.hidden, rises);
    rising = 2 * count > p.hidden;
    paired = 2 * smaller(count, p.hidden - count);
    for (int64_t k = 0, up = 0, down = 0; k < p.hidden; k++) {
      int64_t& unit = (k < paired ? k % 2 == 0 : rising) ? up : down;
      while (rises(unit) != (&unit == &up)) unit++;
      order[k] = unit++;
    }
    find_highest(any.row);
  }

  // t_k over the finite a_ik; 0 if there is none. row: room for one.
  void find_highest(T* row) const {
    constexpr T kFinite = std::numeric_limits<T>::max();
    std::fill_n(highest, chunks * kUnits, -kFinite);
    for (int64_t i = 0; i < p.n(); i++) {
      padded_row(row, p.queries, i);
      for (int64_t k = 0; k < chunks * kUnits; k++)
        highest[k] = row[k] > highest[k] && row[k] <= kFinite ? row[k] : highest[k];
    }
    for (int64_t k = 0; k < chunks * kUnits; k++) highest[k] = highest[k] == -kFinite ? 0 : highest[k];
  }

  // The slot's share of the candidates; columns start at a panel.
  void prepare(Slot& slot, Range columns, bool gradient) const {
    T* b = slot.row;
    for (int64_t j = columns.first; j < columns.last; j++) {
      padded_row(b, p.candidates, j);
      T* panel = panels + j / kPanel * kPanel * p.hidden + j % kPanel;
      double sum = 0;
      for (int64_t k = 0; k < p.hidden; k++) {
        const T shifted = -(b[order[k]] + highest[order[k]]);
        const T product = weight[order[k]] * (shifted > 0 ? T(0) : shifted);  // NaN stays
        panel[k * kPanel] = product;
        sum -= product;
      }
      offset[j] = static_cast<T>(sum);
      if (gradient)
        for (int64_t k = 0; k < chunks * kUnits; k += kLanes<T>)
          store(negated + (k / kUnits * p.m() + j) * kUnits + k % kUnits, -load(b + k));
    }
    for (int64_t j = columns.last; j < round_up(columns.last, kPanel); j++) {  // beyond the last candidate
      offset[j] = 0;
      for (int64_t k = 0; k < p.hidden; k++) panels[(j / kPanel * p.hidden + k) * kPanel + j % kPanel] = 0;
    }
    if (!gradient) return;
    std::memset(slot.candidate_sums, 0, chunks * p.m() * kUnits * sizeof(T));
    std::memset(slot.last_weight, 0, chunks * kUnits * sizeof(double));
  }

  void begin(Slot& slot, int64_t first, int64_t rows, bool gradient) const {
    slot.first = first, slot.rows = rows;
    const T* a = slot.row;
    for (int64_t r = 0; r < rows; r++) {
      padded_row(slot.row, p.queries, first + r);
      for (int64_t k = 0; k < p.hidden; k++)
        slot.scaled[r * p.hidden + k] = weight[order[k]] * (a[order[k]] - highest[order[k]]);
      if (gradient)
        for (int64_t k = 0; k < chunks * kUnits; k += kLanes<T>)
          store(slot.queries + (k / kUnits * kRows + r) * kUnits + k % kUnits, load(a + k));
    }
    if (gradient) std::memset(slot.query_sums, 0, chunks * kRows * kUnits * sizeof(T));
  }

  // out [kRows][kColumns]: scores of the slot's rows with candidates first .. first + count; first starts a panel.
  void scores(Slot& slot, int64_t first, int64_t count, T* out) const {
    for_vector_tiles(padded<T>(count) / kLanes<T>, [&](auto vectors, int64_t vector) {
      const int64_t j = first + vector * kLanes<T>;
      const T* panel = panels + j / kPanel * kPanel * p.hidden + j % kPanel;
      for_row_tiles(slot.rows, [&](auto rows, int64_t r) {
        score_tile<rows(), vectors()>(slot.scaled + r * p.hidden, p.hidden, paired, rising, panel, offset + j,
                                      out + r * kColumns + vector * kLanes<T>);
      });
    });
  }

  // Adds what weights G [kRows][kColumns] of the same tile give to U and V.
  void add_gradients(Slot& slot, int64_t first, int64_t count, const T* weights) const {
    for (int64_t c = 0; c < chunks; c++) {
      const int64_t at = (c * p.m() + first) * kUnits;
      auto pass = [&](auto rows, int64_t r) {
        const int64_t row = (c * kRows + r) * kUnits;
        unit_tile<rows()>(slot.queries + row, slot.query_sums + row, negated + at, slot.candidate_sums + at, count,
                          weights + r * kColumns);
      };
      int64_t r = 0;
      for (; r + kUnitRows <= slot.rows; r += kUnitRows) pass(Constant<kUnitRows>{}, r);
      for (; r < slot.rows; r++) pass(Constant<1>{}, r);
    }
  }

  // da of the slot's rows, and their part of dw.
  void end(Slot& slot, const JointGradients& g) const {
    for (int64_t k = 0; k < chunks * kUnits; k += kLanes<T>) {
      const int64_t at = k / kUnits * kRows * kUnits + k % kUnits;
      Vec<T> sum = {};
      for (int64_t r = 0; r < slot.rows; r++) {
        const Vec<T> u = load(slot.query_sums + at + r * kUnits);
        sum += load(slot.queries + at + r * kUnits) * u;
        put(g.queries, slot.first + r, k, load(weight + k) * u);
      }
      for (int lane = 0; lane < kLanes<T>; lane++) slot.last_weight[k + lane] += sum[lane];
    }
  }

  // Measures the slot's sums anew.
  void rescale(Slot& slot, double factor) const {
    for (int64_t k = 0; k < chunks * p.m() * kUnits; k++) slot.candidate_sums[k] *= static_cast<T>(factor);
    for (int64_t k = 0; k < chunks * kUnits; k++) slot.last_weight[k] *= factor;
  }

  // db and dw of the units that belong to slot s, the slots' sums added in order.
  void finish(const Slot* slots, int s, int slot_count, const JointGradients& g) const {
    const Range share = part_of(chunks * kUnits, s, slot_count, kUnits);
    for (int64_t k = share.first; k < share.last; k += kLanes<T>) {
      double sum[kLanes<T>] = {};
      for (int other = 0; other < slot_count; other++)
        for (int lane = 0; lane < kLanes<T>; lane++) sum[lane] += slots[other].last_weight[k + lane];
      for (int64_t j = 0; j < p.m(); j++) {
        const int64_t at = (k / kUnits * p.m() + j) * kUnits + k % kUnits;
        Vec<T> v = load(slots[0].candidate_sums + at);
        for (int other = 1; other < slot_count; other++) v += load(slots[other].candidate_sums + at);
        const Vec<T> product = load(negated + at) * v;
        for (int lane = 0; lane < kLanes<T>; lane++) sum[lane] -= product[lane];
        put(g.candidates, j, k, load(weight + k) * v);
      }
      for (int64_t lane = 0; lane < smaller(kLanes<T>, p.hidden - k); lane++)
        static_cast<T*>(g.last_weight)[k + lane] = static_cast<T>(sum[lane]);
    }
  }

 private:
  void padded_row(T* out, const Features& features, int64_t row) const {
    convert(out, features, p.dtype, row, 0, p.hidden);
    for (int64_t k = p.hidden; k < chunks * kUnits; k++) out[k] = 0;
  }

  // Units first .. first + kLanes of a row of a gradient.
  void put(void* gradient, int64_t row, int64_t first, Vec<T> v) const {
    T* out = static_cast<T*>(gradient) + row * p.hidden + first;
    if (first + kLanes<T> <= p.hidden) return store(out, v);
    for (int64_t k = 0; k < p.hidden - first; k++) out[k] = v[k];
  }

  // at[r][v] += max(b, a), or min(b, a); the order of arguments keeps a NaN in a. Every other sum goes through the
  // units that multiply, or each, where as many maxima keep those that add busy: scalars come by an integer unit then.
  template <bool kRising, int kTileRows, int kVectors>
  MI_INLINE void add_unit(Tile<T, kTileRows, kVectors>& s, const T* a, int64_t a_row, const T* b) {
    Vec<T> operand[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) operand[v] = load(b + v * kLanes<T>);
#pragma GCC unroll 6
    for (int r = 0; r < kTileRows; r++) {
      const Vec<T> scalar = broadcast_load(a + r * a_row);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) {
        const Vec<T> term = kRising ? max<T>(operand[v], scalar) : min<T>(operand[v], scalar);
        s.at[r][v] = v % 2 == 0 || kVectorBytes == 64 ? add_by_product<T>(s.at[r][v], term) : s.at[r][v] + term;
      }
    }
  }

  template <int kTileRows, int kVectors>
  MI_NOINLINE void score_tile(const T* a, int64_t hidden, int64_t paired, bool rising, const T* b, const T* offset,
                              T* out) {
    for (int r = 0; r < kTileRows; r++)
      for (int v = 0; v < kVectors; v++) store(out + r * kColumns + v * kLanes<T>, load(offset + v * kLanes<T>));
    for (int64_t k = 0; k < hidden;) {
      const int64_t last = smaller(k + kRun, k < paired ? paired : hidden);
      auto s = Tile<T, kTileRows, kVectors>::zero();
      if (k < paired)
        for (; k < last; k += 2) {
          add_unit<true>(s, a + k, hidden, b + k * kPanel);
          add_unit<false>(s, a + k + 1, hidden, b + (k + 1) * kPanel);
        }
      else if (rising)
        for (; k < last; k++) add_unit<true>(s, a + k, hidden, b + k * kPanel);
      else
        for (; k < last; k++) add_unit<false>(s, a + k, hidden, b + k * kPanel);
      s.add_to(out, kColumns);
    }
  }

  // A chunk of units: a and u stay in registers while the candidates pass with their v.
  template <int kTileRows>
  MI_NOINLINE void unit_tile(const T* a, T* u, const T* negated, T* v, int64_t candidates, const T* weights) {
    Vec<T> query[kTileRows][kUnitVectors], sum[kTileRows][kUnitVectors];
#pragma GCC unroll 6
    for (int r = 0; r < kTileRows; r++)
#pragma GCC unroll 2
      for (int i = 0; i < kUnitVectors; i++) query[r][i] = load(a + r * kUnits + i * kLanes<T>), sum[r][i] = Vec<T>{};
    for (int64_t j = 0; j < candidates; j++) {
      Vec<T> b[kUnitVectors], column[kUnitVectors];
#pragma GCC unroll 2
      for (int i = 0; i < kUnitVectors; i++)
        b[i] = load(negated + j * kUnits + i * kLanes<T>), column[i] = load(v + j * kUnits + i * kLanes<T>);
#pragma GCC unroll 6
      for (int r = 0; r < kTileRows; r++) {
        const Vec<T> weight = broadcast_load(weights + r * kColumns + j);
#pragma GCC unroll 2
        for (int i = 0; i < kUnitVectors; i++)
          if (r % 2 == i % 2)
            add_where_greater<false, T>(query[r][i], b[i], weight, sum[r][i], column[i]);
          else
            add_where_greater<true, T>(query[r][i], b[i], weight, sum[r][i], column[i]);
      }
#pragma GCC unroll 2
      for (int i = 0; i < kUnitVectors; i++) store(v + j * kUnits + i * kLanes<T>, column[i]);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kTileRows; r++)
#pragma GCC unroll 2
      for (int i = 0; i < kUnitVectors; i++) {
        T* place = u + r * kUnits + i * kLanes<T>;
        store(place, load(place) + sum[r][i]);
      }
  }
};

}  // namespace MI_ISA
}  // namespace mi
