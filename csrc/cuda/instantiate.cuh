// A table of the walks over one element type.
#pragma once
#include "pairwise.h"
#include "pairwise_gradient.cuh"

namespace mi::cuda {

template <class T, class Params>
cudaError_t launch(void (*kernel)(Params), const Params& p, int splits, int column_groups, cudaStream_t stream) {
  const int bytes = typename Ring<T>::Layout(p.walk.row_bytes).bytes();
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(ceil_div(p.walk.owner.rows, T::kRows)), splits, column_groups);
  kernel<<<grid, kThreads, bytes, stream>>>(p);
  return cudaGetLastError();
}

template <class T>
constexpr TileShape shape_of = {T::kRows, T::kColumns, T::kWarpsAcross};

template <class Element>
PairwiseKernels pairwise_kernels_of(int weight_shift) {
  using Forward = typename Traits<Element>::Forward;
  using Softplus = typename Traits<Element>::Softplus;
  using Gradient = typename Traits<Element>::Gradient;
  return {
      sizeof(typename Forward::Scalar),
      weight_shift,
      shape_of<Forward>,
      shape_of<Softplus>,
      shape_of<Gradient>,
      [](const ForwardParams& p, int splits, cudaStream_t stream) {
        return launch<Forward>(pairwise_forward<Forward, false>, p, splits, 1, stream);
      },
      [](const ForwardParams& p, int splits, cudaStream_t stream) {
        return launch<Softplus>(pairwise_forward<Softplus, true>, p, splits, 1, stream);
      },
      [](Weights weights, const GradientParams& p, int splits, cudaStream_t stream) {
        const int groups = static_cast<int>(ceil_div(p.dim, Gradient::kValueChunks * Gradient::kChunk));
        if (weights == Weights::kSoftplus)
          return launch<Gradient>(pairwise_gradient<Gradient, SoftplusWeights<Gradient>>, p, splits, groups, stream);
        if (weights == Weights::kOnline)
          return launch<Gradient>(pairwise_gradient<Gradient, OnlineWeights<Gradient>>, p, splits, groups, stream);
        return launch<Gradient>(pairwise_gradient<Gradient, FixedWeights<Gradient>>, p, splits, groups, stream);
      },
  };
}

}  // namespace mi::cuda
