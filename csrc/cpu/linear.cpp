#include "linear.h"

#include <cmath>

#include "parallel.h"

namespace mi {
namespace {

constexpr int64_t kEach = int64_t{1} << 16;  // elements that are worth a thread
constexpr int64_t kParts = 16;               // partial sums that are added side by side

int slots_of(int threads, int64_t elements) { return slots_for(threads, elements / kEach); }

template <class T>
double inner(const T* a, const T* b, int64_t d) {
  T part[kParts] = {};
  int64_t k = 0;
  for (; k + kParts <= d; k += kParts)
    for (int64_t l = 0; l < kParts; l++) part[l] += a[k + l] * b[k + l];
  double sum = 0;
  for (; k < d; k++) sum += static_cast<double>(a[k]) * b[k];
  for (T each : part) sum += each;
  return sum;
}

template <class T>
void unit(const UnitRows& p, const T* z, T* unit, T* length) {
  const int slots = slots_of(p.threads, p.n * p.d);
  for_slots(slots, [&](int slot) {
    const Range rows = part_of(p.n, slot, slots, 1);
    for (int64_t i = rows.first; i < rows.last; i++) {
      const T* row = z + i * p.d;
      const T norm = static_cast<T>(std::sqrt(inner(row, row, p.d))), shortest = static_cast<T>(p.shortest);
      length[i] = norm < shortest ? shortest : norm;  // NaN stays
      for (int64_t k = 0; k < p.d; k++) unit[i * p.d + k] = row[k] / length[i];
    }
  });
}

template <class T>
void unit_gradient(const UnitRows& p, const T* unit, const T* length, const T* upstream, T* gradient) {
  const int slots = slots_of(p.threads, p.n * p.d);
  for_slots(slots, [&](int slot) {
    const Range rows = part_of(p.n, slot, slots, 1);
    for (int64_t i = rows.first; i < rows.last; i++) {
      const T *u = unit + i * p.d, *du = upstream + i * p.d;
      const bool is_short = length[i] <= static_cast<T>(p.shortest);
      const T along = is_short ? 0 : static_cast<T>(inner(u, du, p.d));
      for (int64_t k = 0; k < p.d; k++) gradient[i * p.d + k] = (du[k] - u[k] * along) / length[i];
    }
  });
}

template <class T>
const T* row_of(const Features& features, int64_t i) {
  return static_cast<const T*>(features.data) + i * features.pitch;
}

template <class T>
void kept(const KeptGradient& p, const KeptRows& queries, const KeptRows& candidates) {
  const int64_t n = p.queries.rows, m = p.candidates.rows, d = p.dim;
  const auto scaled = [&](const KeptRows& rows, Range range) {
    const T factor = static_cast<T>(p.loss_gradient), *from = static_cast<const T*>(rows.kept);
    for (int64_t k = range.first * d; k < range.last * d; k++) static_cast<T*>(rows.result)[k] = factor * from[k];
  };
  const auto add = [&](const KeptRows& rows, int64_t to, int64_t i, const T* vector) {
    const T weight = static_cast<T>(p.scale * p.positive[i * p.positive_pitch]);
    T* out = static_cast<T*>(rows.result) + to * d;
    for (int64_t k = 0; k < d; k++) out[k] += weight * vector[k];
  };
  const int slots = slots_of(p.threads, (n + m) * d);
  for_slots(slots, [&](int slot) {
    const Range rows = part_of(n, slot, slots, 1), columns = part_of(m, slot, slots, 1);
    if (queries.result) {
      scaled(queries, rows);
      for (int64_t i = rows.first; i < rows.last; i++) add(queries, i, i, row_of<T>(p.candidates, p.target[i]));
    }
    if (candidates.result) {
      scaled(candidates, columns);
      for (int64_t i = 0; i < n; i++) {
        const int64_t j = p.target[i];
        if (j >= columns.first && j < columns.last) add(candidates, j, i, row_of<T>(p.queries, i));
      }
    }
  });
}

}  // namespace

void unit_rows(const UnitRows& p, const void* z, void* unit_row, void* length) {
  p.dtype == Dtype::kFloat64
      ? unit(p, static_cast<const double*>(z), static_cast<double*>(unit_row), static_cast<double*>(length))
      : unit(p, static_cast<const float*>(z), static_cast<float*>(unit_row), static_cast<float*>(length));
}

void unit_rows_gradient(const UnitRows& p, const void* unit_row, const void* length, const void* upstream,
                        void* gradient) {
  const auto run = [&]<class T>(T* out) {
    unit_gradient(p, static_cast<const T*>(unit_row), static_cast<const T*>(length), static_cast<const T*>(upstream),
                  out);
  };
  p.dtype == Dtype::kFloat64 ? run(static_cast<double*>(gradient)) : run(static_cast<float*>(gradient));
}

void kept_gradient(const KeptGradient& p, const KeptRows& queries, const KeptRows& candidates) {
  const auto run = p.dtype == Dtype::kFloat64 ? kept<double> : kept<float>;
  run(p, queries, candidates);
}

}  // namespace mi
