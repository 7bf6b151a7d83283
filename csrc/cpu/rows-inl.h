// Rows that lie anywhere in memory, a group at a time: their products with one vector, and their weighted sum.
#pragma once
#include "features-inl.h"

namespace mi {
namespace MI_ISA {

constexpr int64_t kGroup = 16;          // rows read together
constexpr int64_t kAhead = 2 * kGroup;  // how many rows earlier they are fetched from memory
constexpr int64_t kStep = 8;            // rows of a group that are added up together
constexpr int64_t kCacheLine = 64;
template <class T>
constexpr int64_t kTogether = kLanes<T> > kStep ? kLanes<T> : kStep;  // rows with a sum in a register each

MI_INLINE int64_t size_of(Dtype dtype) { return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2; }

// Lane j: v's lane j ^ h.
template <class T, int h, int... kLane>
MI_INLINE Vec<T> exchanged(Vec<T> v, std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, v, (kLane ^ h)...);
#else
  return __builtin_shuffle(v, Vec<IntOf<T>>{(kLane ^ h)...});
#endif
}
template <class T, int h, int... kLane>
MI_INLINE Vec<IntOf<T>> has_bit(std::integer_sequence<int, kLane...>) {
  return Vec<IntOf<T>>{(kLane & h ? -1 : 0)...};
}

// v[0], lane r: the sum of the lanes of v[r]. Halves of two rows are joined and added until each row is a lane.
template <class T, int h = kLanes<T> / 2>
MI_INLINE void sum_lanes(Vec<T>* v) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes<T>>{};
  const Vec<IntOf<T>> upper = has_bit<T, h>(lanes);
#pragma GCC unroll 8
  for (int r = 0; r < h; r++) v[r] = (upper ? v[r + h] : v[r]) + exchanged<T, h>(upper ? v[r] : v[r + h], lanes);
  if constexpr (h > 1) sum_lanes<T, h / 2>(v);
}

// A group of rows in the compute type, and those that will be needed soon, wherever they lie.
template <class T>
struct RowGroup {
  const T* row[kGroup];
  int64_t count = 0;         // rows there are; the others are zeros
  const char* next[kGroup];  // where the rows kAhead further on lie
  int64_t next_size = 0;     // bytes of an element there; 0: nothing to fetch

  // Called for each vector of kRows rows; fetches the same part of later rows, a cache line at a time: of rows kFrom to
  // kTo in every kStep. Fetching goes on evenly beside the arithmetic, or one would wait for the other.
  template <int kRows, int kFrom, int kTo>
  inline __attribute__((always_inline)) void fetch(int64_t first, int64_t k) const {
    if (next_size == 0 || k * next_size % kCacheLine != 0) return;
#pragma GCC unroll 2
    for (int step = 0; step < kRows; step += kStep)
#pragma GCC unroll 8
      for (int r = kFrom; r < kTo; r++) __builtin_prefetch(next[first + step + r] + k * next_size);
  }
};

// out[r] = <u, row_r>. kFetched: how many later rows are fetched beside every kStep.
template <class T, int kFetched>
MI_NOINLINE void group_products(const T* u, const RowGroup<T>& group, int64_t width, T* out) {
  for (int64_t first = 0; first < group.count; first += kTogether<T>) {
    const T* const* row = group.row + first;
    Vec<T> sum[kTogether<T>] = {};
    for (int64_t k = 0; k < width; k += kLanes<T>) {
      const Vec<T> x = load(u + k);
#pragma GCC unroll 16
      for (int r = 0; r < kTogether<T>; r++) sum[r] += x * load(row[r] + k);
      group.template fetch<kTogether<T>, 0, kFetched>(first, k);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kTogether<T>; r += kLanes<T>) {
      sum_lanes<T>(sum + r);
      store(out + first + r, sum[r]);
    }
  }
}

// sum += sum_r weight_r row_r, the rows of a step first. The second half of each step of later rows is fetched
// meanwhile.
template <class T>
MI_NOINLINE void add_weighted_rows(const T* weight, const RowGroup<T>& group, int64_t width, T* sum) {
  for (int64_t first = 0; first < group.count; first += kStep) {
    const T* const* row = group.row + first;
    Vec<T> w[kStep];
#pragma GCC unroll 8
    for (int r = 0; r < kStep; r++) w[r] = broadcast(weight[first + r]);
    for (int64_t k = 0; k < width; k += kLanes<T>) {
      Vec<T> part = w[0] * load(row[0] + k);
#pragma GCC unroll 8
      for (int r = 1; r < kStep; r++) part += w[r] * load(row[r] + k);
      store(sum + k, load(sum + k) + part);
      group.template fetch<kStep, kStep / 2, kStep>(first, k);
    }
  }
}

// Reads groups of rows: in place where rows are whole vectors of the compute type, otherwise through a padded copy.
template <class T>
struct RowReader {
  RowGroup<T> group;
  Dtype dtype;
  int64_t dim, width;
  bool in_place;
  T* copy = nullptr;     // [kGroup][width]
  T* nothing = nullptr;  // [width] zeros: the rows that are missing in the last group

  void place(Dtype dtype_of_rows, int64_t d, Arena& arena) {
    dtype = dtype_of_rows, dim = d, width = padded<T>(d);
    in_place = dtype == (sizeof(T) == 8 ? Dtype::kFloat64 : Dtype::kFloat32) && width == dim;
    if (!in_place) copy = arena.take<T>(kGroup * width);
    nothing = arena.take<T>(width);
  }
  void clear() const {
    std::memset(nothing, 0, width * sizeof(T));
    if (copy) std::memset(copy, 0, kGroup * width * sizeof(T));
  }

  // One row, padded.
  const T* read_one(const Features& from, int64_t at) {
    if (in_place) return static_cast<const T*>(from.data) + at * from.pitch;
    convert(copy, from, dtype, at, 0, dim);
    return copy;
  }

  // The group of rows index[first], index[first + 1], ... before index[last]; index null: first, first + 1, ....
  template <class Index>
  inline __attribute__((always_inline)) const RowGroup<T>& read(const Features& from, const Index* index, int64_t first,
                                                                int64_t last) {
    const int64_t size = size_of(dtype), row_bytes = from.pitch * size;
    const char* data = static_cast<const char*>(from.data);
    auto place = [&](int64_t k) { return data + (index ? static_cast<int64_t>(index[k]) : k) * row_bytes; };
    group.count = smaller(kGroup, last - first);
    group.next_size = last > first + kAhead ? size : 0;
    if (last >= first + kAhead + kGroup)
      for (int64_t r = 0; r < kGroup; r++) group.next[r] = place(first + kAhead + r);
    else if (group.next_size)
      for (int64_t r = 0; r < kGroup; r++) group.next[r] = place(smaller(first + kAhead + r, last - 1));
    if (in_place) {
      for (int64_t r = 0; r < group.count; r++) group.row[r] = reinterpret_cast<const T*>(place(first + r));
    } else {
      for (int64_t r = 0; r < group.count; r++) {
        convert(copy + r * width, from, dtype, index ? static_cast<int64_t>(index[first + r]) : first + r, 0, dim);
        group.row[r] = copy + r * width;
      }
    }
    for (int64_t r = group.count; r < kGroup; r++) group.row[r] = nothing;
    return group;
  }
};

// Scores of the rows of a group with u, in log2 units; -inf where the group has no row.
template <class T>
struct GroupScores {
  T factor = 1;          // scale log2 e
  T bias = 0, clip = 0;  // log2 units; clip 0: none

  template <int kFetched>
  void of(const T* u, const RowGroup<T>& group, int64_t width, T* s) const {
    group_products<T, kFetched>(u, group, width, s);
    for (int64_t r = 0; r < kGroup; r += kLanes<T>) {
      Vec<T> score = load(s + r) * factor + bias;
      if (clip != 0) score = min<T>(broadcast(clip), max<T>(broadcast(-clip), score));
      store(s + r, score);
    }
    for (int64_t r = group.count; r < kGroup; r++) s[r] = -std::numeric_limits<T>::infinity();
  }
};

}  // namespace MI_ISA
}  // namespace mi
