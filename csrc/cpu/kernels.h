// What the operators may call on the CPU: one table of functions per instruction set.
#pragma once
#include "../core/importance.h"
#include "../core/params.h"

namespace mi {

struct DotKernels {
  // Log-sum-exps of rows and, where asked for, columns; positives where there are targets.
  void (*statistics)(const DotProblem&, const DotStatistics&);
  // Statistics and gradients of sum_i -log p_i, or of the global log-partition. positive_gradient [n]: dL/dz_i.
  void (*fused)(const DotProblem&, const PartitionWeights&, const double* external_positive, const DotStatistics&,
                const DotGradients&, double* positive_gradient);
  // Gradients for any upstream gradient of the statistics.
  void (*gradient)(const DotProblem&, const UpstreamGradients&, const double* positive, const DotGradients&);
  // value = sum over negatives of e^{v_j} softplus(s_ij), its gradients, and the positives.
  void (*softplus_sum)(const DotProblem&, double* positive, double* value, const DotGradients&);
};

struct GatheredKernels {
  // negative_lse_i, of scores clamped to [-clip, clip] where clip > 0.
  void (*log_sum_exp)(const GatheredProblem&, double clip, double* negative_lse);
  // The same, and gradients of sum_i -log p_i, or of the global log-partition. positive_gradient [n]: dL/dz_i.
  void (*fused)(const GatheredProblem&, const PartitionWeights&, const double* positive, double* negative_lse,
                const DotGradients&, double* positive_gradient);
  // Gradients for any upstream gradient of negative_lse.
  void (*gradient)(const GatheredProblem&, const UpstreamGradients&, const DotGradients&);
  // value = sum of softplus(s_ik), and its gradients.
  void (*softplus_sum)(const GatheredProblem&, double* value, const DotGradients&);
  // positives [n, d], of the problem's dtype; their scores are not written.
  void (*ranking)(const GatheredProblem&, const Features& positives, const DotRanking&);
};

struct JointKernels {
  // Log-sum-exps of rows and, where asked for, columns; positives where there are targets.
  void (*statistics)(const JointProblem&, const JointStatistics&);
  // Statistics and gradients of sum_i -log p_i, or of the global log-partition; targets needed.
  void (*fused)(const JointProblem&, const PartitionWeights&, const JointStatistics&, const JointGradients&);
  // Gradients for any upstream gradient of the statistics.
  void (*gradient)(const JointProblem&, const UpstreamGradients&, const JointGradients&);
  // value = sum over negatives of e^{v_j} softplus(s_ij), and with gradients (null: none asked for) d value / d bias.
  void (*softplus_sum)(const JointProblem&, double* value, const JointGradients*, double* bias_gradient);
  // The scores themselves [n, m], without bias and exclusions, in the type of gradients; and from their gradient.
  void (*matrix)(const JointProblem&, void* scores);
  void (*matrix_gradient)(const JointProblem&, const void* upstream, const JointGradients&);
  // Targets needed.
  void (*ranking)(const JointProblem&, const DotRanking&);
};

struct RankingKernels {
  // positives: where there are no targets, the problem whose candidate i is the positive of query i.
  void (*rows)(const DotProblem&, const DotProblem& positives, const DotRanking&);
};

struct ImportanceKernels {
  void (*statistics)(const ImportanceProblem&, const ImportanceStatistics&);
  // Statistics and gradients of the objective. positive_gradient [2][n]: dL/dp', dL/dp''.
  void (*fused)(const ImportanceProblem&, const ImportanceObjective&, const ImportanceStatistics&,
                const ImportanceGradients&, double* const* positive_gradient);
  // Gradients for any upstream gradient of the statistics.
  void (*gradient)(const ImportanceProblem&, const ImportanceStatistics&, const ImportanceUpstream&,
                   const ImportanceGradients&);
};

struct CpuKernels {
  const char* isa;
  DotKernels dot;
  GatheredKernels gathered;
  JointKernels joint;
  ImportanceKernels importance;
  RankingKernels ranking;
  // Multiply-adds between registers alone, on every thread at once: float32 flop/s that no kernel can exceed.
  double (*peak_flops)(int threads, int64_t steps);
};

const CpuKernels& cpu_kernels();  // of the instruction set in use
const char* cpu_isa();
bool set_cpu_isa(const char* name);  // false: unknown here, or this machine has not got it
bool split_always();                 // see parts_table.cpp
void set_split_always(bool always);
int cpu_isa_names(const char** names);  // the ones this machine can run, worst first; returns how many

}  // namespace mi
