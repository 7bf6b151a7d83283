// What the operators may call on a device: the walks over the scores of joint critics, enqueued on a stream.
// Workspaces, errors, targets outside [0, m) and determinism as in kernels.h.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

#include "../core/params.h"

namespace mi::cuda {

// Log-sum-exps of rows and, where asked for, columns; positives where there are targets and `positive` is not null.
size_t joint_statistics_workspace(const DeviceJointProblem&, const JointStatistics&);
cudaError_t joint_statistics(const DeviceJointProblem&, const JointStatistics&, void* workspace, cudaStream_t);

// Statistics and gradients of sum_i -log p_i, or of the global log-partition, and the loss itself; targets are needed.
size_t joint_fused_workspace(const DeviceJointProblem&);
cudaError_t joint_fused(const DeviceJointProblem&, const PartitionWeights&, const JointStatistics&,
                        const JointGradients&, double* loss, void* workspace, cudaStream_t);

// Gradients for any upstream gradient of the statistics.
size_t joint_gradient_workspace(const DeviceJointProblem&);
cudaError_t joint_gradient(const DeviceJointProblem&, const UpstreamGradients&, const JointGradients&, void* workspace,
                           cudaStream_t);

// value = sum over negatives of e^{v_j} softplus(s_ij), its derivative by the bias, and, where asked for, gradients.
size_t joint_softplus_sum_workspace(const DeviceJointProblem&, bool gradient);
cudaError_t joint_softplus_sum(const DeviceJointProblem&, double* value, double* bias_gradient,
                               const JointGradients* gradients, void* workspace, cudaStream_t);

// What is read beside a loss; targets are needed. A positive that is NaN ranks last, after all m candidates.
size_t joint_ranking_workspace(const DeviceJointProblem&);
cudaError_t joint_ranking(const DeviceJointProblem&, const DotRanking&, void* workspace, cudaStream_t);

// s [n, m], without the bias, and the gradients from upstream = dL/ds [n, m]; double for double inputs, else float.
size_t joint_matrix_workspace(const DeviceJointProblem&);
cudaError_t joint_matrix(const DeviceJointProblem&, void* scores, void* workspace, cudaStream_t);
size_t joint_matrix_gradient_workspace(const DeviceJointProblem&);
cudaError_t joint_matrix_gradient(const DeviceJointProblem&, const void* upstream, const JointGradients&,
                                  void* workspace, cudaStream_t);

}  // namespace mi::cuda
