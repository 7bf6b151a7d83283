// The walks over the scores of joint critics, and the table of them all.
#include "families-inl.h"
#include "joint-fused-inl.h"
#include "joint-one-layer-inl.h"
#include "joint-ranking-inl.h"
#include "joint-two-layers-inl.h"

namespace mi {
namespace MI_ISA {

template <class Critic>
void joint_statistics(const JointProblem& p, const JointStatistics& statistics) {
  using T = typename Critic::Scalar;
  using Walk = JointWalk<Critic>;
  Walk walk{p, false};
  LogSumExp2 *row_sums = nullptr, *column_sums = nullptr;  // [n], [slots][m]
  const bool columns_too = statistics.column_negative_lse != nullptr;
  Workspace workspace([&](Arena& arena) {
    walk.place(arena);
    row_sums = arena.take<LogSumExp2>(p.n());
    if (columns_too) column_sums = arena.take<LogSumExp2>(walk.slot_count * p.m());
  });
  std::fill_n(row_sums, p.n(), LogSumExp2{});
  if (columns_too) std::fill_n(column_sums, walk.slot_count * p.m(), LogSumExp2{});
  const RowExclusions<T> exclusions{p.exclusions, static_cast<T>(p.bias), static_cast<T>(statistics.clip)};
  walk.run(
      [&](int s, Range rows, Range columns, T* scores) {
        Walk::for_rows(rows, scores, [&](int64_t i, T* row) {
          exclusions.apply(row, i, columns, statistics.positive);
          row_sums[i] = merge(row_sums[i], log_sum_exp_of_row(row, columns.size()));
        });
        if (columns_too)
          add_log_sum_exps_of_columns(scores, Walk::kColumns, rows.size(), columns.size(),
                                      column_sums + s * p.m() + columns.first);
      },
      [](int, Range) {});
  for (int64_t i = 0; i < p.n(); i++) statistics.negative_lse[i] = log2_value(row_sums[i]) * kLn2;
  for (int64_t j = 0; columns_too && j < p.m(); j++) {
    LogSumExp2 sum;
    for (int s = 0; s < walk.slot_count; s++) sum = merge(sum, column_sums[s * p.m() + j]);
    statistics.column_negative_lse[j] = log2_value(sum) * kLn2;
  }
}

template <class Critic>
void joint_gradient(const JointProblem& p, const UpstreamGradients& up, const JointGradients& g) {
  using T = typename Critic::Scalar;
  using Walk = JointWalk<Critic>;
  Walk walk{p, true};
  T *column_reference = nullptr, *column_factor = nullptr;
  Workspace workspace([&](Arena& arena) {
    walk.place(arena);
    if (up.column_negative_lse == nullptr) return;
    column_reference = arena.take<T>(padded<T>(p.m()));
    column_factor = arena.take<T>(padded<T>(p.m()));
  });
  for (int64_t j = 0; column_reference && j < padded<T>(p.m()); j++) {
    const bool inside = j < p.m();
    const Normalizer<T> column =
        normalizer<T>(inside ? up.column_negative_lse_value[j] : -kInfinity, inside ? up.column_negative_lse[j] : 0);
    column_reference[j] = column.reference;
    column_factor[j] = column.factor;
  }
  const RowExclusions<T> exclusions{p.exclusions};
  walk.run(
      [&](int s, Range rows, Range columns, T* tile) {
        Walk::for_rows(rows, tile, [&](int64_t i, T* row) {
          exclusions.apply(row, i, columns, nullptr);
          const Normalizer<T> normal = up.negative_lse ? normalizer<T>(up.negative_lse_value[i], up.negative_lse[i])
                                                       : normalizer<T>(-kInfinity, 0);
          weigh_row(row, columns.size(), normal, column_reference ? column_reference + columns.first : nullptr,
                    column_factor + (column_factor ? columns.first : 0));
          set_positive_weight(p, i, columns, row, up.positive ? up.positive[i] : 0);
        });
        walk.add_gradients(s, columns, tile);
      },
      [&](int s, Range) { walk.critic.end(walk.slots[s], g); });
  walk.finish(g);
}

template <class Critic>
void joint_fused(const JointProblem& p, const PartitionWeights& weights, const JointStatistics& statistics,
                 const JointGradients& g) {
  JointFused<Critic> fused{p, weights, statistics, g};
  if (fused.walk.bytes_kept() <= kLargestBlock) return fused.run();
  joint_statistics<Critic>(p, statistics);
  std::unique_ptr<double[]> gradients(new double[2 * p.n()]);
  double *row_weight = gradients.get(), *positive = row_weight + p.n();
  partition_gradients(p.n(), statistics.positive, statistics.negative_lse, weights, row_weight, positive);
  joint_gradient<Critic>(p, {statistics.negative_lse, row_weight, nullptr, nullptr, positive}, g);
}

template <class Critic>
void joint_softplus_sum(const JointProblem& p, double* value, const JointGradients* g, double* bias_gradient) {
  using T = typename Critic::Scalar;
  using Walk = JointWalk<Critic>;
  Walk walk{p, g != nullptr};
  SoftplusSums* row_sums = nullptr;  // [n]
  T* factor = nullptr;               // e^{v_j} [m]
  const double* log_weight = p.exclusions.candidate_log_weight;
  Workspace workspace([&](Arena& arena) {
    walk.place(arena);
    row_sums = arena.take<SoftplusSums>(p.n());
    if (log_weight) factor = arena.take<T>(padded<T>(p.m()));
  });
  std::fill_n(row_sums, p.n(), SoftplusSums{});
  for (int64_t j = 0; log_weight && j < padded<T>(p.m()); j++)
    factor[j] = static_cast<T>(j < p.m() ? std::exp(log_weight[j]) : 0);
  const RowExclusions<T> exclusions{p.exclusions, static_cast<T>(p.bias), 0, false};
  walk.run(
      [&](int s, Range rows, Range columns, T* tile) {
        Walk::for_rows(rows, tile, [&](int64_t i, T* row) {
          exclusions.apply(row, i, columns, nullptr);
          const SoftplusSums sums = softplus_of_row(row, columns.size(), factor ? factor + columns.first : nullptr);
          row_sums[i].value += sums.value;
          row_sums[i].weight += sums.weight;
        });
        if (g) walk.add_gradients(s, columns, tile);
      },
      [&](int s, Range) {
        if (g) walk.critic.end(walk.slots[s], *g);
      });
  if (g) walk.finish(*g);
  *value = *bias_gradient = 0;
  for (int64_t i = 0; i < p.n(); i++) *value += row_sums[i].value, *bias_gradient += row_sums[i].weight;
}

template <class Critic>
void joint_matrix(const JointProblem& p, void* scores) {
  using T = typename Critic::Scalar;
  JointWalk<Critic> walk{p, false};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  walk.run(
      [&](int, Range rows, Range columns, T* tile) {
        walk.for_rows(rows, tile, [&](int64_t i, const T* row) {
          std::copy_n(row, columns.size(), static_cast<T*>(scores) + i * p.m() + columns.first);
        });
      },
      [](int, Range) {});
}

template <class Critic>
void joint_matrix_gradient(const JointProblem& p, const void* upstream, const JointGradients& g) {
  using T = typename Critic::Scalar;
  JointWalk<Critic> walk{p, true};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  walk.run(
      [&](int s, Range rows, Range columns, T* tile) {
        walk.for_rows(rows, tile, [&](int64_t i, T* row) {
          std::copy_n(static_cast<const T*>(upstream) + i * p.m() + columns.first, columns.size(), row);
        });
        walk.add_gradients(s, columns, tile);
      },
      [&](int s, Range) { walk.critic.end(walk.slots[s], g); });
  walk.finish(g);
}

// body<Critic>() with the critic of a problem.
template <class Body>
void with_critic(const JointProblem& p, Body&& body) {
  const bool wide = p.dtype == Dtype::kFloat64;
  if (p.inner() > 0)
    wide ? body.template operator()<TwoHiddenLayers<double>>() : body.template operator()<TwoHiddenLayers<float>>();
  else
    wide ? body.template operator()<OneHiddenLayer<double>>() : body.template operator()<OneHiddenLayer<float>>();
}

JointKernels joint_kernels() {
  return {
      [](const JointProblem& p, const JointStatistics& statistics) {
        with_critic(p, [&]<class Critic>() { joint_statistics<Critic>(p, statistics); });
      },
      [](const JointProblem& p, const PartitionWeights& weights, const JointStatistics& statistics,
         const JointGradients& g) {
        with_critic(p, [&]<class Critic>() { joint_fused<Critic>(p, weights, statistics, g); });
      },
      [](const JointProblem& p, const UpstreamGradients& up, const JointGradients& g) {
        with_critic(p, [&]<class Critic>() { joint_gradient<Critic>(p, up, g); });
      },
      [](const JointProblem& p, double* value, const JointGradients* g, double* bias_gradient) {
        with_critic(p, [&]<class Critic>() { joint_softplus_sum<Critic>(p, value, g, bias_gradient); });
      },
      [](const JointProblem& p, void* scores) {
        with_critic(p, [&]<class Critic>() { joint_matrix<Critic>(p, scores); });
      },
      [](const JointProblem& p, const void* upstream, const JointGradients& g) {
        with_critic(p, [&]<class Critic>() { joint_matrix_gradient<Critic>(p, upstream, g); });
      },
      [](const JointProblem& p, const DotRanking& out) {
        with_critic(p, [&]<class Critic>() { JointRankingWalk<Critic>{p, out}.run(); });
      },
  };
}

}  // namespace MI_ISA
}  // namespace mi
