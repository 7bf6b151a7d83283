// Rows of scores that lie in memory, natural units: exclusions, their log-sum-exps, and the weights of a gradient. For
// critics whose scores cost so much that a pass over finished ones is nothing.
#pragma once
#include "gradient-inl.h"

namespace mi {
namespace MI_ISA {

// What happens to a row of scores before it is reduced: bias, clip, the positive taken out, exclusions at -inf,
// log-weights. Whole vectors can be read afterwards: -inf follows the last column.
template <class T>
struct RowExclusions {
  const Exclusions& exclusions;
  T bias = 0;
  T clip = 0;               // 0: none
  bool weights_add = true;  // v_j is added to the score (log-sum-exp); false: the caller multiplies by e^{v_j}

  __attribute__((noinline)) void apply(T* s, int64_t i, Range columns, double* positive) const {
    constexpr T kExcluded = -std::numeric_limits<T>::infinity();
    const Exclusions& e = exclusions;
    const int64_t count = columns.size();
    for (int64_t c = 0; c < count; c++) s[c] += bias;
    if (clip != 0)
      for (int64_t c = 0; c < count; c++) s[c] = s[c] < -clip ? -clip : (s[c] > clip ? clip : s[c]);
    if (e.target && e.target[i] >= columns.first && e.target[i] < columns.last) {
      T& at = s[e.target[i] - columns.first];
      if (positive) positive[i] = at;
      at = kExcluded;
    }
    if (e.query_label)
      for (int64_t c = 0; c < count; c++)
        if (e.query_label[i] == e.candidate_label[columns.first + c]) s[c] = kExcluded;
    if (e.candidate_log_weight)
      for (int64_t c = 0; c < count; c++) {
        const double v = e.candidate_log_weight[columns.first + c];
        s[c] = v == -kInfinity || s[c] == kExcluded ? kExcluded : s[c] + static_cast<T>(weights_add ? v : 0);
      }
    for (int64_t c = count; c < padded<T>(count); c++) s[c] = kExcluded;
  }
};

template <class T>
MI_NOINLINE LogSumExp2 log_sum_exp_of_row(const T* s, int64_t count) {
  Vec<T> highest = broadcast(std::numeric_limits<T>::lowest()), sum = {};
  for (int64_t c = 0; c < count; c += kLanes<T>) highest = max<T>(load(s + c), highest);
  T top = highest[0];
  for (int lane = 1; lane < kLanes<T>; lane++) top = highest[lane] > top ? highest[lane] : top;
  const T reference = reference_for(top, static_cast<T>(kLog2E));
  for (int64_t c = 0; c < count; c += kLanes<T>) sum += exp2<T>(load(s + c) * static_cast<T>(kLog2E) - reference);
  return {static_cast<double>(reference), horizontal_sum<T>(sum)};
}

// The same down the columns of `rows` rows of scores, `pitch` apart, merged into what the columns have summed before.
template <class T>
MI_NOINLINE void add_log_sum_exps_of_columns(const T* s, int64_t pitch, int64_t rows, int64_t count,
                                             LogSumExp2* columns) {
  for (int64_t c = 0; c < count; c += kLanes<T>) {
    Vec<T> highest = broadcast(std::numeric_limits<T>::lowest()), sum = {}, reference;
    for (int64_t r = 0; r < rows; r++) highest = max<T>(load(s + r * pitch + c), highest);
    for (int lane = 0; lane < kLanes<T>; lane++)
      reference[lane] = reference_for<T>(highest[lane], static_cast<T>(kLog2E));
    for (int64_t r = 0; r < rows; r++) sum += exp2<T>(load(s + r * pitch + c) * static_cast<T>(kLog2E) - reference);
    for (int64_t lane = 0; lane < smaller(kLanes<T>, count - c); lane++)
      columns[c + lane] = merge(columns[c + lane], {static_cast<double>(reference[lane]), sum[lane]});
  }
}

// Scores become weights w_ij = ga_i e^{s_ij - a_i} + gc_j e^{s_ij - c_j}; the column part only where it is asked for.
template <class T>
MI_NOINLINE void weigh_row(T* s, int64_t count, Normalizer<T> row, const T* column_reference, const T* column_factor) {
  for (int64_t c = 0; c < count; c += kLanes<T>) {
    const Vec<T> score = load(s + c) * static_cast<T>(kLog2E);
    Vec<T> weight = row.factor * exp2<T>(score - row.reference);
    if (column_reference) weight += load(column_factor + c) * exp2<T>(score - load(column_reference + c));
    store(s + c, weight);
  }
}

struct SoftplusSums {
  double value = 0;   // sum of u_j softplus(s_ij)
  double weight = 0;  // of u_j sigmoid(s_ij)
};

// Scores become weights u_j sigmoid(s_ij). factor: u_j, or null for 1.
template <class T>
MI_NOINLINE SoftplusSums softplus_of_row(T* s, int64_t count, const T* factor) {
  Vec<T> value = {}, weight = {};
  for (int64_t c = 0; c < count; c += kLanes<T>) {
    const Vec<T> score = load(s + c), zero = {};
    const Vec<T> decay = exp2<T>((score > zero ? -score : score) * static_cast<T>(kLog2E));
    const Logistic<Vec<T>> of = logistic<T>(score, T(1), decay);
    const Vec<T> u = factor ? load(factor + c) : broadcast(T(1));
    value += u * of.softplus;
    weight += u * of.sigmoid;
    store(s + c, u * of.sigmoid);
  }
  return {horizontal_sum<T>(value), horizontal_sum<T>(weight)};
}

}  // namespace MI_ISA
}  // namespace mi
