// The three partitions of two query sets on the same candidates: statistics, a known objective with its gradients, and
// gradients for any upstream.
#pragma once
#include "importance-inl.h"

namespace mi {
namespace MI_ISA {

// Beyond this many bytes of exponentials a group computes them twice: memory is no faster, and a bank is long.
constexpr int64_t kMostKept = int64_t{24} << 20;

static void write_row(const ImportanceStatistics& out, int64_t i, const ImportanceRow& row, bool has_target) {
  for (int k = 0; k < 3; k++) out.negative_lse[k][i] = row.negative_lse[k];
  if (has_target)
    for (int h = 0; h < 2; h++) out.positive[h][i] = row.positive[h];
}

template <class T>
void finish_gradients(ImportanceWalk<T>& walk, const double* const* positive_gradient, const double* const* positive) {
  for_slots(walk.grid.slots(), [&](int s) { walk.finish(s, positive_gradient); });
  for (int h = 0; h < 2; h++)
    *walk.g->scale[h] = scale_gradient(*walk.p[h], walk.scale_part[h], positive_gradient[h], positive[h]);
}

template <class T>
void importance_statistics(const ImportanceProblem& p, const ImportanceStatistics& statistics) {
  ImportanceWalk<T> walk{{&p.first, &p.second}, nullptr, false};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  const bool has_target = p.first.exclusions.target;
  for_slots(walk.grid.slots(), [&](int s) { walk.prepare(s); });
  walk.walk(true, [&](int64_t i, const ImportanceRow& row) { write_row(statistics, i, row, has_target); });
}

template <class T>
void importance_fused(const ImportanceProblem& p, const ImportanceObjective& objective,
                      const ImportanceStatistics& statistics, const ImportanceGradients& g,
                      double* const* positive_gradient) {
  const bool keep = 3 * p.first.m() * kQueryBlock * static_cast<int64_t>(sizeof(T)) <= kMostKept;
  ImportanceWalk<T> walk{{&p.first, &p.second}, &g, keep, objective.weights_detached};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  const bool has_target = p.first.exclusions.target;
  for_slots(walk.grid.slots(), [&](int s) { walk.prepare(s); });
  walk.walk(true, [&](int64_t i, ImportanceRow row) {
    write_row(statistics, i, row, has_target);
    if (!has_target)
      for (int h = 0; h < 2; h++) row.positive[h] = objective.external_positive[h][i];
    const ImportanceRow gradient = importance_row_gradient(row, objective.log_mass[i], objective);
    for (int k = 0; k < 3; k++)
      walk.rows[i].lse[k] = row.negative_lse[k], walk.rows[i].gradient[k] = gradient.negative_lse[k];
    for (int h = 0; h < 2; h++) positive_gradient[h][i] = gradient.positive[h];
  });
  finish_gradients(walk, positive_gradient, statistics.positive);
}

template <class T>
void importance_gradient(const ImportanceProblem& p, const ImportanceStatistics& statistics,
                         const ImportanceUpstream& up, const ImportanceGradients& g) {
  ImportanceWalk<T> walk{{&p.first, &p.second}, &g, false, up.weights_detached};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  for_slots(walk.grid.slots(), [&](int s) { walk.prepare(s); });
  walk.walk(false, [&](int64_t i, const ImportanceRow&) {
    for (int k = 0; k < 3; k++) {
      walk.rows[i].lse[k] = statistics.negative_lse[k][i];
      walk.rows[i].gradient[k] = up.negative_lse[k] ? up.negative_lse[k][i] : 0;
    }
  });
  finish_gradients(walk, up.positive, statistics.positive);
}

}  // namespace MI_ISA
}  // namespace mi
