// The operators on two query sets with the same candidates, on a GPU.
#include "../cuda/importance.h"
#include "device_arguments.h"
#include "importance_operators.h"

namespace mi {
namespace {

struct Cuda {
  using Arguments = DeviceDotArguments;
  using Problem = DeviceImportanceProblem;
  static constexpr auto arguments = device_dot_arguments;

  static void statistics(const ImportanceArguments<Cuda>& a, const ImportanceStatistics& statistics) {
    enqueue(a.first.op, a.first.x, cuda::importance_statistics_workspace(a.problem),
            [&](void* workspace, cudaStream_t stream) {
              return cuda::importance_statistics(a.problem, statistics, workspace, stream);
            });
  }

  static void fused(const ImportanceArguments<Cuda>& a, const ImportanceObjective& objective,
                    const ImportanceStatistics& statistics, const ImportanceGradients& gradients,
                    double* const* positive_gradient, double* loss, double* terms) {
    enqueue(a.first.op, a.first.x, cuda::importance_fused_workspace(a.problem, gradients),
            [&](void* workspace, cudaStream_t stream) {
              return cuda::importance_fused(a.problem, objective, statistics, gradients, positive_gradient, loss, terms,
                                            workspace, stream);
            });
  }

  static void gradient(const ImportanceArguments<Cuda>& a, const ImportanceStatistics& statistics,
                       const ImportanceUpstream& upstream, const ImportanceGradients& gradients) {
    enqueue(a.first.op, a.first.x, cuda::importance_gradient_workspace(a.problem, gradients),
            [&](void* workspace, cudaStream_t stream) {
              return cuda::importance_gradient(a.problem, statistics, upstream, gradients, workspace, stream);
            });
  }
};

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CUDA, library) { ImportanceOperators<Cuda>::implement(library); }

}  // namespace
}  // namespace mi
