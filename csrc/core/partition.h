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

}  // namespace mi
