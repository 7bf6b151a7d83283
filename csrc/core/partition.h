// How a loss over log-partitions weighs its scores.
//   row i:   -log p_i = a + softplus(t_i),  t_i = b + negative_lse_i - positive_i - a
//   global:  T = log sum_i (e^{positive_i + a} + e^{negative_lse_i + b})
#pragma once
#include "log_sum_exp.h"
#include "params.h"

namespace mi {

// 1 - p_i = sigmoid(t_i): what the negatives of row i weigh together, and minus the gradient at the positive.
MI_HOST_DEVICE double negative_probability(double positive, double negative_lse, const PartitionWeights& w) {
  if (w.positive_log_weight == -kInfinity) return negative_lse == -kInfinity ? 0.0 : 1.0;
  const double t = w.negative_log_weight + negative_lse - positive - w.positive_log_weight;
  return t > 0 ? 1 / (1 + std::exp(-t)) : std::exp(t) / (1 + std::exp(t));
}

// R_i = log(e^{positive + a} + e^{negative_lse + b}).
MI_HOST_DEVICE double row_log_partition(double positive, double negative_lse, const PartitionWeights& w) {
  return log_add_exp(positive + w.positive_log_weight, negative_lse + w.negative_log_weight);
}

// -log p_i = a + softplus(t_i), exact down to the smallest loss; for a = -inf, where the positive is in no denominator,
// t_i + a.
MI_HOST_DEVICE double row_cross_entropy(double positive, double negative_lse, const PartitionWeights& w) {
  const double excess = w.negative_log_weight + negative_lse - positive;
  if (w.positive_log_weight == -kInfinity) return excess;
  const double t = excess - w.positive_log_weight;
  return w.positive_log_weight + (t > 0 ? t + std::log1p(std::exp(-t)) : std::log1p(std::exp(t)));
}

// dL/dz_i and dL/da_i of the loss. total: the global log-partition T, where there is one.
struct PartitionGradient {
  double positive, negative_lse;
};
MI_HOST_DEVICE PartitionGradient partition_gradient(double positive, double negative_lse, double total,
                                                    const PartitionWeights& w) {
  if (w.partition == Partition::kRows) {
    const double negatives = negative_probability(positive, negative_lse, w);
    return {-negatives, negatives};
  }
  if (total == -kInfinity) return {0, 0};
  return {std::exp(positive + w.positive_log_weight - total), std::exp(negative_lse + w.negative_log_weight - total)};
}

// The loss itself, from the statistics of its rows. positive null: there are none.
MI_HOST_DEVICE double partition_loss(int64_t n, const double* positive, const double* negative_lse,
                                     const PartitionWeights& w) {
  double sum = 0;
  LogSumExp2 total;
  bool nan = false;
  for (int64_t i = 0; i < n; i++) {
    const double z = positive ? positive[i] : -kInfinity;
    if (w.partition == Partition::kRows) {
      sum += row_cross_entropy(z, negative_lse[i], w);
      continue;
    }
    const double row = row_log_partition(z, negative_lse[i], w);
    nan |= row != row;
    if (row > -kInfinity) total = merge(total, {row * kLog2E, 1});
  }
  if (w.partition == Partition::kRows) return sum;
  return nan ? kInfinity - kInfinity : log2_value(total) * kLn2;
}

}  // namespace mi
