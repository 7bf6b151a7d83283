// What is read beside a loss, on a device; see kernels.h for what all launchers have in common.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

#include "../core/params.h"

namespace mi::cuda {

// external_positive: where there are no targets, the positives, one a query, in the queries' dtype. A positive that is
// NaN, as beside a target outside [0, m), ranks last, after all m candidates.
size_t ranking_workspace(const DeviceDotProblem&, const Features& external_positive);
cudaError_t ranking(const DeviceDotProblem&, const Features& external_positive, const DotRanking&, void* workspace,
                    cudaStream_t);

}  // namespace mi::cuda
