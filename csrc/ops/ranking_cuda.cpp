// Ranks of the positives and entropies of the weights, on a GPU.
#include "../cuda/ranking.h"
#include "device_arguments.h"
#include "ranking_operators.h"

namespace mi {
namespace {

struct Cuda {
  static constexpr auto arguments = device_dot_arguments;

  static void ranking(const DeviceDotArguments& a, const Features& external_positive, const DotRanking& ranking) {
    enqueue(a.op, a.x, cuda::ranking_workspace(a.problem, external_positive),
            [&](void* workspace, cudaStream_t stream) {
              return cuda::ranking(a.problem, external_positive, ranking, workspace, stream);
            });
  }
};

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CUDA, library) { library.impl("dot_ranking", TORCH_BOX(&dot_ranking<Cuda>)); }

}  // namespace
}  // namespace mi
