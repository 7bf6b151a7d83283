// How the decomposed objective weighs its three partitions. With ce(p, a) = softplus(a - p), a row's terms are
//   ce(p', a'),   ce(p'', a''),   ce(p', log M + a* - a''):
// InfoNCE of x', InfoNCE of x'', and InfoNCE of x' given x'', whose M negatives (M counts e^v) are replaced by M times
// their mean under the weights softmax(s'' + v).
#pragma once
#include "partition.h"

namespace mi {

struct ImportanceObjective {
  double weight[3] = {};                    // of the terms
  bool weights_detached = true;             // no gradient to s'' from the third term
  const double* log_mass = nullptr;         // [n] log M
  const double* external_positive[2] = {};  // [n] where there are no targets
};

struct ImportanceRow {
  double positive[2];
  double negative_lse[3];
};

// log M + a* - a''; -inf where there are no weights.
MI_HOST_DEVICE double log_importance_mass(const ImportanceRow& row, double log_mass) {
  return row.negative_lse[1] == -kInfinity ? -kInfinity : log_mass + row.negative_lse[2] - row.negative_lse[1];
}

// Adds the row's terms.
MI_HOST_DEVICE void add_importance_terms(const ImportanceRow& row, double log_mass, double* terms) {
  terms[0] += row_cross_entropy(row.positive[0], row.negative_lse[0], {});
  terms[1] += row_cross_entropy(row.positive[1], row.negative_lse[1], {});
  terms[2] += row_cross_entropy(row.positive[0], log_importance_mass(row, log_mass), {});
}

// Their weighted sum.
MI_HOST_DEVICE double importance_loss(const double* terms, const ImportanceObjective& objective) {
  double loss = 0;
  for (int k = 0; k < 3; k++) loss += objective.weight[k] == 0 ? 0 : objective.weight[k] * terms[k];
  return loss;
}

MI_HOST_DEVICE ImportanceRow importance_row(int64_t i, const double* const* positive,
                                            const double* const* negative_lse) {
  return {{positive[0][i], positive[1][i]}, {negative_lse[0][i], negative_lse[1][i], negative_lse[2][i]}};
}

// Gradients of the row's weighted terms with respect to its positives and its log-sum-exps.
MI_HOST_DEVICE ImportanceRow importance_row_gradient(const ImportanceRow& row, double log_mass,
                                                     const ImportanceObjective& objective) {
  auto weigh = [&](int term, double positive, double lse) {
    const double weight = objective.weight[term];
    return weight == 0 ? 0 : weight * negative_probability(positive, lse, {});
  };
  const double first = weigh(0, row.positive[0], row.negative_lse[0]),
               second = weigh(1, row.positive[1], row.negative_lse[1]),
               joint = weigh(2, row.positive[0], log_importance_mass(row, log_mass));
  return {{-first - joint, -second}, {first, objective.weights_detached ? second : second - joint, joint}};
}

}  // namespace mi
