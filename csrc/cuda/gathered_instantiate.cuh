// A table of the kernels on gathered scores of one element type.
#pragma once
#include <algorithm>

#include "gathered_candidates.cuh"
#include "gathered_queries.cuh"

namespace mi::cuda {

template <class Params>
cudaError_t launch_gathered(void (*kernel)(Params), const Params& p, int64_t warps, int across, cudaStream_t stream) {
  constexpr int kWarpsOfBlock = kGatheredThreads / 32;
  const dim3 grid(static_cast<unsigned>((warps + kWarpsOfBlock - 1) / kWarpsOfBlock), across);
  kernel<<<grid, kGatheredThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

template <class T, class Weights>
cudaError_t launch_queries_of(GatheredWalk p, cudaStream_t stream) {
  p.chunks = std::max(1, (p.row_bytes + T::kPieces * 32 * kPiece - 1) / (T::kPieces * 32 * kPiece));
  if constexpr (Weights::kAreWeights)
    if (p.products) return launch_gathered(gathered_queries<T, Weights, true>, p, p.n * p.parts, p.chunks, stream);
  return launch_gathered(gathered_queries<T, Weights, false>, p, p.n * p.parts, 1, stream);
}

template <class Element, class Weights>
cudaError_t launch_queries(const GatheredWalk& p, cudaStream_t stream) {
  if constexpr (sizeof(Element) == 2)
    if (std::min({p.queries.unit, p.candidates.unit, p.positives.unit}) == 2)
      return launch_queries_of<HalfwordShape<Element>, Weights>(p, stream);
  const int pieces = (p.row_bytes + 32 * kPiece - 1) / (32 * kPiece);
  if (pieces <= 1) return launch_queries_of<GatheredShape<Element, 1>, Weights>(p, stream);
  if (pieces <= 2) return launch_queries_of<GatheredShape<Element, 2>, Weights>(p, stream);
  if (pieces <= 4) return launch_queries_of<GatheredShape<Element, 4>, Weights>(p, stream);
  return launch_queries_of<GatheredShape<Element, 8>, Weights>(p, stream);
}

template <class Element>
GatheredKernels gathered_kernels_of() {
  using Scalar = typename ScalarOf<Element>::type;
  return {
      [](bool softplus, const GatheredWalk& p, cudaStream_t stream) {
        return softplus ? launch_queries<Element, LogisticSums<Scalar>>(p, stream)
                        : launch_queries<Element, LazyExponentials<Scalar>>(p, stream);
      },
      launch_queries<Element, RankedExponentials<Scalar>>,
      [](const PairWalk& p, cudaStream_t stream) {
        return launch_gathered(gathered_negatives<Element>, p, (p.pairs + kPairsOfWarp - 1) / kPairsOfWarp, 1, stream);
      },
      [](const PairWalk& p, cudaStream_t stream) {
        const int64_t chunks = (p.pairs + kBankChunk - 1) / kBankChunk, teams = 32 / p.lanes;
        const int groups = (p.row_bytes + p.lanes * kPiece - 1) / (p.lanes * kPiece);
        const cudaError_t error =
            launch_gathered(gathered_bank<Element>, p, (chunks + teams - 1) / teams, groups, stream);
        return error == cudaSuccess ? launch_gathered(gathered_bank_heads<Scalar>, p, chunks, 1, stream) : error;
      },
  };
}

}  // namespace mi::cuda
