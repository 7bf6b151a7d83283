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

struct PairwiseKernels {
  int scalar_bytes;
  int weight_shift;  // weights reach up to 2^weight_shift: float16 would flush small ones to zero
  ForwardKernel log_sum_exp, softplus;
  TileShape gradient_shape;
  cudaError_t (*two_sided)(const TwoSidedParams&, int slots, int splits, cudaStream_t);  // tiles as log_sum_exp
  cudaError_t (*gradient)(Weights, const GradientParams&, int splits, cudaStream_t);
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

// By wgmma, for compute capability 9.0 alone; there where the library is compiled for sm_90a.
extern const ForwardKernel bfloat16_warpgroup_log_sum_exp, float16_warpgroup_log_sum_exp;

inline const ForwardKernel& log_sum_exp_kernel(const DeviceDotProblem& p) {
#if defined(MI_EXT_SM_90A)
  constexpr int kMostFeatures = 256;
  if (p.capability == 90 && p.dim <= kMostFeatures) {
    if (p.dtype == Dtype::kBFloat16) return bfloat16_warpgroup_log_sum_exp;
    if (p.dtype == Dtype::kFloat16) return float16_warpgroup_log_sum_exp;
  }
#endif
  return pairwise_kernels(p.dtype).log_sum_exp;
}

}  // namespace mi::cuda
