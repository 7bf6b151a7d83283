// A table of the walks over one element type.
#pragma once
#include <type_traits>

#include "launch.cuh"
#include "pairwise_gradient.cuh"
#include "pairwise_two_sided.cuh"

namespace mi::cuda {

// A split is so many tiles of Traits::WideGradient, whatever tiles T has.
template <class Element, class T, class WeightsOf>
cudaError_t launch_gradient(GradientParams p, int splits, cudaStream_t stream) {
  p.walk.tiles_per_split *= Traits<Element>::WideGradient::kColumns / T::kColumns;
  const int groups = static_cast<int>(ceil_div(p.dim, T::kValueChunks * T::kChunk));
  return launch<T>(pairwise_gradient<T, WeightsOf>, p, splits, groups, stream);
}

template <class Element>
cudaError_t launch_gradient(Weights weights, const GradientParams& p, int splits, cudaStream_t stream) {
  using Tilings = Traits<Element>;
  using Wide = typename Tilings::WideGradient;
  using Narrow = typename Tilings::Gradient;
  auto run = [&]<class T, class WeightsOf>(T, std::type_identity<WeightsOf>) {
    return launch_gradient<Element, T, WeightsOf>(p, splits, stream);
  };
  if (weights == Weights::kSoftplus)
    return p.owner_term ? run(Narrow{}, std::type_identity<SoftplusWeights<Narrow, true>>{})
                        : run(Narrow{}, std::type_identity<SoftplusWeights<Narrow, false>>{});
  if (p.owner_term && p.streamed_term)
    return with_chunks<Narrow>(typename Tilings::KnownGradient{}, p.walk.row_bytes,
                               [&]<class T>(T t) { return run(t, std::type_identity<FixedWeights<T, true, true>>{}); });
  return with_chunks<Wide, Narrow>(typename Tilings::KnownGradient{}, p.walk.row_bytes, [&]<class T>(T t) {
    if (weights == Weights::kOnline) return run(t, std::type_identity<OnlineWeights<T>>{});
    return p.owner_term ? run(t, std::type_identity<FixedWeights<T, true, false>>{})
                        : run(t, std::type_identity<FixedWeights<T, false, true>>{});
  });
}

template <class Element>
PairwiseKernels pairwise_kernels_of(int weight_shift) {
  using Forward = typename Traits<Element>::Forward;
  using Softplus = typename Traits<Element>::Softplus;
  return {
      sizeof(typename Forward::Scalar),
      weight_shift,
      {shape_of<Forward>,
       [](const ForwardParams& p, int splits, cudaStream_t stream) {
         return with_chunks<Forward>(typename Traits<Element>::Known{}, p.walk.row_bytes, [&]<class T>(T) {
           return launch<T>(pairwise_forward<T, false>, p, splits, 1, stream);
         });
       }},
      {shape_of<Softplus>,
       [](const ForwardParams& p, int splits, cudaStream_t stream) {
         return launch<Softplus>(pairwise_forward<Softplus, true>, p, splits, 1, stream);
       }},
      {shape_of<Forward>,
       [](const TwoSidedParams& p, int slots, int splits, cudaStream_t stream) {
         return with_chunks<Forward>(typename Traits<Element>::Known{}, p.walk.row_bytes, [&]<class T>(T) {
           return launch_on<Passing<T>>(dim3(slots, splits), pairwise_two_sided<Passing<T>>, p, stream);
         });
       }},
      {shape_of<typename Traits<Element>::WideGradient>, launch_gradient<Element>},
  };
}

}  // namespace mi::cuda
