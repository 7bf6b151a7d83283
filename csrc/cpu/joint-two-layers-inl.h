// The joint critic with two hidden layers, for one query i and a tile of candidates j at a time:
//   H = relu(a_i + b_j) [pairs, h],   Z = H W1^T + b1 [pairs, h1],   s = relu(Z) w.
//   gradient:  M = G_j 1[Z > 0],   D = M^T H,   dW1 = w D,   db1 = w sum M,   dw_k = <W1_k, D_k> + b1_k sum_j M_jk,
//              dH = M (w W1),   da_i = sum_j dH 1[H > 0],   db_j = sum_i dH 1[H > 0].
// Of Z only the signs are kept, a bit a unit; H is made again: 6 h h1 flops a pair with the gradient.
#pragma once
#include "features-inl.h"
#include "parallel.h"

namespace mi {
namespace MI_ISA {

// An odd number of cache lines: rows one behind the other fall into all sets of the cache.
template <class T>
MI_INLINE int64_t odd_pitch(int64_t width) {
  constexpr int64_t kLine = 64 / sizeof(T);
  return ((width + kLine - 1) / kLine | 1) * kLine;
}

template <class T>
struct TwoHiddenLayers {
  using Scalar = T;
  static constexpr int64_t kRows = 1;
  static constexpr int64_t kColumns = 96;
  static constexpr int64_t kPanel = kVectorsWide * kLanes<T>;
  static constexpr int64_t kColumnUnit = kRowsHigh;

  struct Slot {
    int64_t first = 0, rows = 0;
    T* query = nullptr;            // a_i [width]
    T* hidden = nullptr;           // H [kColumns][width]
    T* products = nullptr;         // Z, then M [kColumns][inner_width]
    T* hidden_gradient = nullptr;  // dH [kColumns][width]
    uint16_t* signs = nullptr;     // 1[Z > 0] [columns kept][inner vectors]
    T* query_sum = nullptr;        // da_i [width]
    T* candidate_sums = nullptr;   // db [m][width]
    T* weight_sums = nullptr;      // D [inner_width][width]
    double* bias_sums = nullptr;   // sum M [inner_width]
  };

  const JointProblem& p;
  int64_t vectors = padded<T>(p.hidden) / kLanes<T>, inner_vectors = padded<T>(p.inner()) / kLanes<T>;
  int64_t width = odd_pitch<T>(p.hidden), inner_width = odd_pitch<T>(p.inner());
  T* candidates = nullptr;       // b [m][width]
  T* inner_weight = nullptr;     // W1 [inner_width][width]
  T* inner_panels = nullptr;     // W1^T [panels of h1][h][kPanel]
  T* weighted_panels = nullptr;  // w W1 [panels of h][h1][kPanel]
  T* inner_bias = nullptr;       // [inner_width]
  T* last_weight = nullptr;      // [inner_width]

  void place(bool gradient, Arena& arena) {
    candidates = arena.take<T>(p.m() * width);
    inner_weight = arena.take<T>(inner_width * width);
    inner_panels = arena.take<T>(round_up(p.inner(), kPanel) * p.hidden);
    if (gradient) weighted_panels = arena.take<T>(round_up(p.hidden, kPanel) * p.inner());
    inner_bias = arena.take<T>(inner_width);
    last_weight = arena.take<T>(inner_width);
  }
  void place_slot(Slot& slot, bool gradient, Arena& arena) const {
    slot.query = arena.take<T>(width);
    slot.hidden = arena.take<T>(kColumns * width);
    slot.products = arena.take<T>(kColumns * inner_width);
    if (!gradient) return;
    slot.hidden_gradient = arena.take<T>(kColumns * width);
    slot.signs = arena.take<uint16_t>(p.m() * inner_vectors);
    slot.query_sum = arena.take<T>(width);
    slot.candidate_sums = arena.take<T>(p.m() * width);
    slot.weight_sums = arena.take<T>(inner_width * width);
    slot.bias_sums = arena.take<double>(inner_width);
  }

  // What every slot reads; once, before `prepare`.
  void prepare_weights(bool gradient, Slot&) const {
    padded_row(inner_bias, p.inner_bias, 0, p.inner());
    padded_row(last_weight, p.last_weight, 0, p.inner());
    std::memset(inner_panels, 0, round_up(p.inner(), kPanel) * p.hidden * sizeof(T));
    if (gradient) std::memset(weighted_panels, 0, round_up(p.hidden, kPanel) * p.inner() * sizeof(T));
    for (int64_t u = 0; u < p.inner(); u++) {
      T* weight = inner_weight + u * width;
      padded_row(weight, p.inner_weight, u, p.hidden);
      T* panel = inner_panels + u / kPanel * kPanel * p.hidden + u % kPanel;
      for (int64_t k = 0; k < p.hidden; k++) panel[k * kPanel] = weight[k];
      if (!gradient) continue;
      for (int64_t k = 0; k < p.hidden; k++)
        weighted_panels[(k / kPanel * p.inner() + u) * kPanel + k % kPanel] = last_weight[u] * weight[k];
    }
  }

  void prepare(Slot& slot, Range columns, bool gradient) const {
    for (int64_t j = columns.first; j < columns.last; j++)
      padded_row(candidates + j * width, p.candidates, j, p.hidden);
    if (!gradient) return;
    std::memset(slot.candidate_sums, 0, p.m() * width * sizeof(T));
    std::memset(slot.weight_sums, 0, inner_width * width * sizeof(T));
    std::memset(slot.bias_sums, 0, inner_width * sizeof(double));
  }

  void begin(Slot& slot, int64_t first, int64_t rows, bool gradient) const {
    slot.first = first, slot.rows = rows;
    padded_row(slot.query, p.queries, first, p.hidden);
    if (gradient) std::memset(slot.query_sum, 0, width * sizeof(T));
  }

  // out [kColumns]: scores of the slot's row with candidates first .. first + count.
  void scores(Slot& slot, int64_t first, int64_t count, T* out) const {
    activate(slot, first, count);
    for (int64_t r = 0; r < count; r++)
      std::memcpy(slot.products + r * inner_width, inner_bias, inner_vectors * kLanes<T> * sizeof(T));
    add_products(slot.hidden, width, inner_panels, p.hidden, count, inner_vectors, slot.products, inner_width);
    for (int64_t r = 0; r < count; r++) {
      Vec<T> sum = {};
      for (int64_t v = 0; v < inner_vectors; v++) {
        const Vec<T> z = load(slot.products + r * inner_width + v * kLanes<T>), zero = {};
        sum += max<T>(zero, z) * load(last_weight + v * kLanes<T>);
        if (slot.signs) slot.signs[(first + r) * inner_vectors + v] = greater_bits<T>(z, zero);
      }
      out[r] = static_cast<T>(horizontal_sum<T>(sum));
    }
  }

  // Adds what weights G [kColumns] of the same tile give; its signs are there since `scores`.
  void add_gradients(Slot& slot, int64_t first, int64_t count, const T* weights) const {
    activate(slot, first, count);
    for (int64_t v = 0; v < inner_vectors; v++) {
      Vec<T> sum = {};
      for (int64_t r = 0; r < count; r++) {
        const Vec<T> m = where_set<T>(slot.signs[(first + r) * inner_vectors + v], broadcast(weights[r]));
        store(slot.products + r * inner_width + v * kLanes<T>, m);
        sum += m;
      }
      for (int lane = 0; lane < kLanes<T>; lane++) slot.bias_sums[v * kLanes<T> + lane] += sum[lane];
    }
    for_vector_tiles(vectors, [&](auto wide, int64_t vector) {
      const int64_t k = vector * kLanes<T>;
      for_row_tiles(p.inner(), [&](auto rows, int64_t u) {
        multiply_add_tile<T, rows(), wide()>(slot.products + u, 1, inner_width, slot.hidden + k, width, count,
                                             slot.weight_sums + u * width + k, width);
      });
    });
    std::memset(slot.hidden_gradient, 0, count * width * sizeof(T));
    add_products(slot.products, inner_width, weighted_panels, p.inner(), count, vectors, slot.hidden_gradient, width);
    add_hidden_gradients(slot, first, count);
  }

  void end(Slot& slot, const JointGradients& g) const {
    std::memcpy(static_cast<T*>(g.queries) + slot.first * p.hidden, slot.query_sum, p.hidden * sizeof(T));
  }

  // Measures the slot's sums anew.
  void rescale(Slot& slot, double factor) const {
    for (int64_t k = 0; k < p.m() * width; k++) slot.candidate_sums[k] *= static_cast<T>(factor);
    for (int64_t k = 0; k < inner_width * width; k++) slot.weight_sums[k] *= static_cast<T>(factor);
    for (int64_t u = 0; u < inner_width; u++) slot.bias_sums[u] *= factor;
  }

  // db of a share of the candidates, dW1, db1 and dw of a share of the units, the slots' sums added in order.
  void finish(const Slot* slots, int s, int slot_count, const JointGradients& g) const {
    const Range columns = part_of(p.m(), s, slot_count, 1), units = part_of(p.inner(), s, slot_count, 1);
    for (int64_t j = columns.first; j < columns.last; j++)
      for (int64_t k = 0; k < p.hidden; k++) {
        T sum = 0;
        for (int other = 0; other < slot_count; other++) sum += slots[other].candidate_sums[j * width + k];
        static_cast<T*>(g.candidates)[j * p.hidden + k] = sum;
      }
    for (int64_t u = units.first; u < units.last; u++) {
      double bias = 0;
      for (int other = 0; other < slot_count; other++) bias += slots[other].bias_sums[u];
      double inner_product = inner_bias[u] * bias;
      for (int64_t k = 0; k < p.hidden; k++) {
        double sum = 0;
        for (int other = 0; other < slot_count; other++) sum += slots[other].weight_sums[u * width + k];
        inner_product += inner_weight[u * width + k] * sum;
        static_cast<T*>(g.inner_weight)[u * p.hidden + k] = static_cast<T>(last_weight[u] * sum);
      }
      static_cast<T*>(g.inner_bias)[u] = static_cast<T>(last_weight[u] * bias);
      static_cast<T*>(g.last_weight)[u] = static_cast<T>(inner_product);
    }
  }

 private:
  void padded_row(T* out, const Features& features, int64_t row, int64_t count) const {
    convert(out, features, p.dtype, row, 0, count);
    for (int64_t k = count; k < odd_pitch<T>(count); k++) out[k] = 0;
  }

  void activate(Slot& slot, int64_t first, int64_t count) const {
    for (int64_t r = 0; r < count; r++)
      for (int64_t k = 0; k < vectors * kLanes<T>; k += kLanes<T>) {
        const Vec<T> zero = {};
        store(slot.hidden + r * width + k,
              max<T>(zero, load(slot.query + k) + load(candidates + (first + r) * width + k)));
      }
  }

  // c [count][pitch] += a [count][a_pitch] times the matrix in `panels`, [steps][vectors].
  void add_products(const T* a, int64_t a_pitch, const T* panels, int64_t steps, int64_t count, int64_t vector_count,
                    T* c, int64_t pitch) const {
    for_vector_tiles(vector_count, [&](auto wide, int64_t vector) {
      const T* panel = panels + vector / kVectorsWide * kPanel * steps + vector % kVectorsWide * kLanes<T>;
      for_row_tiles(count, [&](auto rows, int64_t r) {
        multiply_add_tile<T, rows(), wide()>(a + r * a_pitch, a_pitch, 1, panel, kPanel, steps,
                                             c + r * pitch + vector * kLanes<T>, pitch);
      });
    });
  }

  void add_hidden_gradients(Slot& slot, int64_t first, int64_t count) const {
    for (int64_t r = 0; r < count; r++)
      for (int64_t k = 0; k < vectors * kLanes<T>; k += kLanes<T>) {
        const Vec<T> zero = {}, h = load(slot.hidden + r * width + k);
        const Vec<T> d = h > zero ? load(slot.hidden_gradient + r * width + k) : zero;
        T* candidate = slot.candidate_sums + (first + r) * width + k;
        store(candidate, load(candidate) + d);
        store(slot.query_sum + k, load(slot.query_sum + k) + d);
      }
  }
};

}  // namespace MI_ISA
}  // namespace mi
