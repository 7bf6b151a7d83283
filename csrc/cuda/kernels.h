// What the operators may call on a device: the walks over dot scores, enqueued on a stream.
//
// Every pointer is a device pointer. Nothing here allocates or waits: a walk is given a workspace, 256-byte aligned, of
// the size that its *_workspace function tells for the same arguments (it reads shapes, the alignment of x and y, and
// which pointers are null), and returns the first error of its launches. Results do not depend on the device's
// schedule, only on its number of multiprocessors.
//
// A target outside [0, m) names no pair: its positive is NaN, and so is every loss that needs it.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

#include "../core/params.h"

namespace mi::cuda {

// Log-sum-exps of rows and, where asked for, columns; positives where there are targets and `positive` is not null.
size_t statistics_workspace(const DeviceDotProblem&, const DotStatistics&);
cudaError_t statistics(const DeviceDotProblem&, const DotStatistics&, void* workspace, cudaStream_t);

// Statistics and gradients of sum_i -log p_i, or of the global log-partition, and the loss itself.
// positive_gradient [n]: dL/dz_i.
size_t fused_workspace(const DeviceDotProblem&, const DotGradients&);
cudaError_t fused(const DeviceDotProblem&, const PartitionWeights&, const double* external_positive,
                  const DotStatistics&, const DotGradients&, double* positive_gradient, double* loss, void* workspace,
                  cudaStream_t);

// Gradients for any upstream gradient of the statistics.
size_t gradient_workspace(const DeviceDotProblem&, const UpstreamGradients&, const DotGradients&);
cudaError_t gradient(const DeviceDotProblem&, const UpstreamGradients&, const DotGradients&, void* workspace,
                     cudaStream_t);

// value = sum over negatives of e^{v_j} softplus(s_ij), its gradients, and the positives. The gradient of scale is 0
// where the queries ask for none.
size_t softplus_sum_workspace(const DeviceDotProblem&, const DotGradients&);
cudaError_t softplus_sum(const DeviceDotProblem&, double* positive, double* value, const DotGradients&, void* workspace,
                         cudaStream_t);

}  // namespace mi::cuda
