// The dot operators on a GPU.
#include "../cuda/kernels.h"
#include "device_arguments.h"
#include "dot_operators.h"

namespace mi {
namespace {

struct Cuda {
  using Arguments = DeviceDotArguments;
  static constexpr auto arguments = device_dot_arguments;

  static void statistics(const Arguments& a, const DotStatistics& statistics) {
    enqueue(a.op, a.x, cuda::statistics_workspace(a.problem, statistics), [&](void* workspace, cudaStream_t stream) {
      return cuda::statistics(a.problem, statistics, workspace, stream);
    });
  }

  static void fused(const Arguments& a, const PartitionWeights& weights, const double* external_positive,
                    const DotStatistics& statistics, const DotGradients& gradients, double* positive_gradient,
                    double* loss) {
    enqueue(a.op, a.x, cuda::fused_workspace(a.problem, gradients), [&](void* workspace, cudaStream_t stream) {
      return cuda::fused(a.problem, weights, external_positive, statistics, gradients, positive_gradient, loss,
                         workspace, stream);
    });
  }

  static void gradient(const Arguments& a, const UpstreamGradients& upstream, const double*,
                       const DotGradients& gradients) {
    enqueue(a.op, a.x, cuda::gradient_workspace(a.problem, upstream, gradients),
            [&](void* workspace, cudaStream_t stream) {
              return cuda::gradient(a.problem, upstream, gradients, workspace, stream);
            });
  }

  static void softplus_sum(const Arguments& a, double* positive, double* value, const DotGradients& gradients) {
    enqueue(a.op, a.x, cuda::softplus_sum_workspace(a.problem, gradients), [&](void* workspace, cudaStream_t stream) {
      return cuda::softplus_sum(a.problem, positive, value, gradients, workspace, stream);
    });
  }
};

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CUDA, library) { DotOperators<Cuda>::implement(library); }

}  // namespace
}  // namespace mi
