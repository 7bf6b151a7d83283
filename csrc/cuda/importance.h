// Two query sets on the same candidates, on a device; see kernels.h for what all launchers have in common.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

#include "../core/importance.h"
#include "../core/params.h"

namespace mi::cuda {

// The three log-sum-exps of rows, and positives where there are targets.
size_t importance_statistics_workspace(const DeviceImportanceProblem&);
cudaError_t importance_statistics(const DeviceImportanceProblem&, const ImportanceStatistics&, void* workspace,
                                  cudaStream_t);

// Statistics, the objective with its terms [3], and its gradients. positive_gradient: dL/dp', dL/dp'' [n].
size_t importance_fused_workspace(const DeviceImportanceProblem&, const ImportanceGradients&);
cudaError_t importance_fused(const DeviceImportanceProblem&, const ImportanceObjective&, const ImportanceStatistics&,
                             const ImportanceGradients&, double* const* positive_gradient, double* loss, double* terms,
                             void* workspace, cudaStream_t);

// Gradients for any upstream gradient of the statistics.
size_t importance_gradient_workspace(const DeviceImportanceProblem&, const ImportanceGradients&);
cudaError_t importance_gradient(const DeviceImportanceProblem&, const ImportanceStatistics&, const ImportanceUpstream&,
                                const ImportanceGradients&, void* workspace, cudaStream_t);

}  // namespace mi::cuda
