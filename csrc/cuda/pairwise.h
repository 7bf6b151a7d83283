// The walks of one element type, as the launchers see them.
#pragma once
#include <cuda_runtime_api.h>

#include "../core/params.h"
#include "walk.h"

namespace mi::cuda {

struct TileShape {
  int rows = 0, columns = 0;
  int parts = 1, column_parts = 1;  // of each row, and each column, in a block of threads
};

// A kernel that reduces rows.
struct ForwardKernel {
  TileShape shape;
  cudaError_t (*run)(const ForwardParams&, int splits, cudaStream_t);
};

// The same for rows and columns at once: `slots` of blocks of threads take one block of rows after the other.
struct TwoSidedKernel {
  TileShape shape;
  cudaError_t (*run)(const TwoSidedParams&, int slots, int splits, cudaStream_t);
};

// A kernel that sums products of weights and features.
struct GradientKernel {
  TileShape shape;
  cudaError_t (*run)(Weights, const GradientParams&, int splits, cudaStream_t);
};

struct PairwiseKernels {
  int scalar_bytes;
  int weight_shift;  // weights reach up to 2^weight_shift: float16 would flush small ones to zero
  ForwardKernel log_sum_exp, softplus;
  TwoSidedKernel two_sided;
  GradientKernel gradient;
};

// One per file in instantiations/, as those below.
extern const PairwiseKernels bfloat16_kernels, float16_kernels, float32_kernels, float64_kernels;

inline const PairwiseKernels& pairwise_kernels(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBFloat16:
      return bfloat16_kernels;
    case Dtype::kFloat16:
      return float16_kernels;
    case Dtype::kFloat64:
      return float64_kernels;
    default:
      return float32_kernels;
  }
}

// By wgmma up to 256 features, for compute capability 9.0 alone; there where the library is compiled for sm_90a.
struct WarpgroupKernels {
  ForwardKernel log_sum_exp, softplus;
  TwoSidedKernel two_sided;  // up to 192 features: registers hold no more beside the columns' sums
  GradientKernel gradient;
};
extern const WarpgroupKernels bfloat16_warpgroup_kernels, float16_warpgroup_kernels;

// null: none for this problem
inline const WarpgroupKernels* warpgroup_kernels(const DeviceDotProblem& p) {
#if defined(MI_EXT_SM_90A)
  if (p.capability == 90 && p.dim <= 256 && p.dtype == Dtype::kBFloat16) return &bfloat16_warpgroup_kernels;
  if (p.capability == 90 && p.dim <= 256 && p.dtype == Dtype::kFloat16) return &float16_warpgroup_kernels;
#endif
  return nullptr;
}

inline const ForwardKernel& log_sum_exp_kernel(const DeviceDotProblem& p) {
  const WarpgroupKernels* kernels = warpgroup_kernels(p);
  return kernels ? kernels->log_sum_exp : pairwise_kernels(p.dtype).log_sum_exp;
}

inline const TwoSidedKernel& two_sided_kernel(const DeviceDotProblem& p) {
  const WarpgroupKernels* kernels = p.dim <= 192 ? warpgroup_kernels(p) : nullptr;
  return kernels ? kernels->two_sided : pairwise_kernels(p.dtype).two_sided;
}

// Softplus sums without log-weights, in which all pairs count alike.
inline const WarpgroupKernels* softplus_warpgroup_kernels(const DeviceDotProblem& p) {
  return p.exclusions.candidate_log_weight ? nullptr : warpgroup_kernels(p);
}

inline const ForwardKernel& softplus_kernel(const DeviceDotProblem& p) {
  const WarpgroupKernels* kernels = softplus_warpgroup_kernels(p);
  return kernels ? kernels->softplus : pairwise_kernels(p.dtype).softplus;
}

inline const GradientKernel& gradient_kernel(const DeviceDotProblem& p, Weights weights) {
  const WarpgroupKernels* kernels =
      weights == Weights::kSoftplus ? softplus_warpgroup_kernels(p) : warpgroup_kernels(p);
  return kernels ? kernels->gradient : pairwise_kernels(p.dtype).gradient;
}

}  // namespace mi::cuda
