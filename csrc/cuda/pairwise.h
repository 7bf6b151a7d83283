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

struct PairwiseKernels {
  int scalar_bytes;
  int weight_shift;  // weights reach up to 2^weight_shift: float16 would flush small ones to zero
  TileShape forward_shape, softplus_shape, gradient_shape;
  cudaError_t (*log_sum_exp)(const ForwardParams&, int splits, cudaStream_t);
  cudaError_t (*two_sided)(const TwoSidedParams&, int slots, int splits, cudaStream_t);
  cudaError_t (*softplus)(const ForwardParams&, int splits, cudaStream_t);
  cudaError_t (*gradient)(Weights, const GradientParams&, int splits, cudaStream_t);
};

// One per file in instantiations/.
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

}  // namespace mi::cuda
