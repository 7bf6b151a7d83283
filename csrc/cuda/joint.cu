// The walks over the scores of joint critics: what each operator needs, and in which order.
#include "joint.h"

#include "joint_passes.cuh"
#include "joint_ranking.cuh"

namespace mi::cuda {
namespace {

template <class Critic>
struct StatisticsPlan {
  JointWalk<Critic> walk;
  StatisticsPass<Critic> pass;

  StatisticsPlan(Arena& arena, const DeviceJointProblem& p, const JointStatistics& s)
      : walk(p, false, false, arena), pass(walk, s.column_negative_lse != nullptr, arena) {}

  void run(Queue& queue, const JointStatistics& s) const {
    walk.critic.prepare(queue, nullptr);
    pass.run(queue, s);
  }
};

template <class Critic>
struct FusedPlan {
  JointWalk<Critic> walk;
  StatisticsPass<Critic> statistics;
  GradientPass<Critic> gradients;
  double *row_weight, *positive_gradient;  // dL/da_i, dL/dz_i

  FusedPlan(Arena& arena, const DeviceJointProblem& p)
      : walk(p, true, false, arena),
        statistics(walk, false, arena),
        gradients(walk, arena),
        row_weight(arena.take<double>(p.n())),
        positive_gradient(arena.take<double>(p.n())) {}

  void run(Queue& queue, const PartitionWeights& weights, const JointStatistics& s, const JointGradients& g,
           double* loss) const {
    walk.critic.prepare(queue, &g);
    statistics.run(queue, s);
    queue.one_block(partition<double>, walk.p.n(), static_cast<const double*>(s.positive),
                    static_cast<const double*>(s.negative_lse), weights, loss, positive_gradient, row_weight);
    gradients.run(queue, {s.negative_lse, row_weight, nullptr, nullptr, positive_gradient}, g, walk.blocks.one());
  }
};

template <class Critic>
struct GradientPlan {
  JointWalk<Critic> walk;
  GradientPass<Critic> pass;

  GradientPlan(Arena& arena, const DeviceJointProblem& p) : walk(p, true, false, arena), pass(walk, arena) {}

  void run(Queue& queue, const UpstreamGradients& up, const JointGradients& g) const {
    walk.critic.prepare(queue, &g);
    pass.run(queue, up, g, false);
  }
};

template <class Critic>
struct SoftplusPlan {
  using Scalar = typename Critic::Scalar;
  JointWalk<Critic> walk;
  Totals<Scalar> rows;
  Scalar* factor;  // e^{v_j}

  SoftplusPlan(Arena& arena, const DeviceJointProblem& p, bool gradient)
      : walk(p, gradient, false, arena),
        rows(p.n(), walk.row_parts() * walk.blocks.rows, arena),
        factor(arena.take<Scalar>(p.exclusions.candidate_log_weight ? p.m() : 0)) {}

  void run(Queue& queue, double* value, double* bias_gradient, const JointGradients* g) const {
    const DeviceJointProblem& p = walk.p;
    const double* log_weight = p.exclusions.candidate_log_weight;
    const Negatives<Scalar> negatives{p.exclusions, p.bias, 0, false};
    walk.critic.prepare(queue, g);
    rows.clear(queue, {0, 0});
    if (log_weight) queue.each(p.m(), make_factors<Scalar>, log_weight, p.m(), factor);
    walk.each_block([&](const PairBlock& block) {
      walk.critic.scores(queue, block);
      queue.launch(row_grid(block), kRowThreads, row_softplus_sums<Scalar>, block, negatives,
                   log_weight ? static_cast<const Scalar*>(factor) : nullptr, g != nullptr, rows.parts);
      queue.each(block.rows, add_sums<Scalar>, static_cast<const RowPart<Scalar>*>(rows.parts),
                 static_cast<int>(row_grid(block).y), block.rows, rows.totals + block.first_row);
      if (g) walk.critic.add_gradients(queue, block, *g);
    });
    if (g) walk.critic.finish(queue, *g);
    queue.one_block(sum_pairs<double>, static_cast<const RowPart<double>*>(rows.totals), p.n(), value, bias_gradient);
  }
};

template <class Critic>
struct MatrixPlan {
  using Scalar = typename Critic::Scalar;
  JointWalk<Critic> walk;

  MatrixPlan(Arena& arena, const DeviceJointProblem& p, bool gradient) : walk(p, gradient, true, arena) {}

  void run(Queue& queue, void* scores) const {
    walk.critic.prepare(queue, nullptr);
    walk.each_block_of(static_cast<Scalar*>(scores), [&](const PairBlock& b) { walk.critic.scores(queue, b); });
  }
  void run(Queue& queue, const void* upstream, const JointGradients& g) const {
    walk.critic.prepare(queue, &g);
    walk.each_block_of(static_cast<Scalar*>(const_cast<void*>(upstream)), [&](const PairBlock& block) {
      walk.critic.switch_units(queue, block);
      walk.critic.add_gradients(queue, block, g);
    });
    walk.critic.finish(queue, g);
  }
};

template <class Critic>
struct RankingPlan {
  JointWalk<Critic> walk;
  RankingPass<Critic> pass;

  RankingPlan(Arena& arena, const DeviceJointProblem& p) : walk(p, false, false, arena), pass(walk, arena) {}

  void run(Queue& queue, const DotRanking& out) const {
    walk.critic.prepare(queue, nullptr);
    pass.run(queue, out);
  }
};

// The plan of a problem's critic, placed in an arena.
template <template <class> class Plan, class Call, class... Arguments>
void with_plan(Arena& arena, const DeviceJointProblem& p, Call&& call, const Arguments&... arguments) {
  with_scalar(p.dtype, [&]<class Scalar>(Scalar) {
    if (p.inner() > 0)
      call(Plan<TwoHiddenLayers<Scalar>>(arena, p, arguments...));
    else
      call(Plan<OneHiddenLayer<Scalar>>(arena, p, arguments...));
  });
}

template <template <class> class Plan, class... Arguments>
size_t workspace_of(const DeviceJointProblem& p, const Arguments&... arguments) {
  Arena arena;
  with_plan<Plan>(arena, p, [](const auto&) {}, arguments...);
  return arena.used;
}

}  // namespace

size_t joint_statistics_workspace(const DeviceJointProblem& p, const JointStatistics& s) {
  return workspace_of<StatisticsPlan>(p, s);
}
cudaError_t joint_statistics(const DeviceJointProblem& p, const JointStatistics& s, void* workspace,
                             cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  Queue queue{stream};
  with_plan<StatisticsPlan>(arena, p, [&](const auto& plan) { plan.run(queue, s); }, s);
  return queue.error;
}

size_t joint_fused_workspace(const DeviceJointProblem& p) { return workspace_of<FusedPlan>(p); }
cudaError_t joint_fused(const DeviceJointProblem& p, const PartitionWeights& weights, const JointStatistics& s,
                        const JointGradients& g, double* loss, void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  Queue queue{stream};
  with_plan<FusedPlan>(arena, p, [&](const auto& plan) { plan.run(queue, weights, s, g, loss); });
  return queue.error;
}

size_t joint_gradient_workspace(const DeviceJointProblem& p) { return workspace_of<GradientPlan>(p); }
cudaError_t joint_gradient(const DeviceJointProblem& p, const UpstreamGradients& up, const JointGradients& g,
                           void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  Queue queue{stream};
  with_plan<GradientPlan>(arena, p, [&](const auto& plan) { plan.run(queue, up, g); });
  return queue.error;
}

size_t joint_softplus_sum_workspace(const DeviceJointProblem& p, bool gradient) {
  return workspace_of<SoftplusPlan>(p, gradient);
}
cudaError_t joint_softplus_sum(const DeviceJointProblem& p, double* value, double* bias_gradient,
                               const JointGradients* g, void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  Queue queue{stream};
  with_plan<SoftplusPlan>(arena, p, [&](const auto& plan) { plan.run(queue, value, bias_gradient, g); }, g != nullptr);
  return queue.error;
}

size_t joint_ranking_workspace(const DeviceJointProblem& p) { return workspace_of<RankingPlan>(p); }
cudaError_t joint_ranking(const DeviceJointProblem& p, const DotRanking& out, void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  Queue queue{stream};
  with_plan<RankingPlan>(arena, p, [&](const auto& plan) { plan.run(queue, out); });
  return queue.error;
}

size_t joint_matrix_workspace(const DeviceJointProblem& p) { return workspace_of<MatrixPlan>(p, false); }
cudaError_t joint_matrix(const DeviceJointProblem& p, void* scores, void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  Queue queue{stream};
  with_plan<MatrixPlan>(arena, p, [&](const auto& plan) { plan.run(queue, scores); }, false);
  return queue.error;
}

size_t joint_matrix_gradient_workspace(const DeviceJointProblem& p) { return workspace_of<MatrixPlan>(p, true); }
cudaError_t joint_matrix_gradient(const DeviceJointProblem& p, const void* upstream, const JointGradients& g,
                                  void* workspace, cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  Queue queue{stream};
  with_plan<MatrixPlan>(arena, p, [&](const auto& plan) { plan.run(queue, upstream, g); }, true);
  return queue.error;
}

}  // namespace mi::cuda
