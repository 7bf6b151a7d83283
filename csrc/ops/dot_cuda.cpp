// The dot operators on a GPU. Nothing waits for it: scalars and indices stay there, and the walks see to bad ones.
#include "../cuda/kernels.h"
#include "dot_operators.h"
#include "gpu.h"

namespace mi {
namespace {

struct Cuda {
  struct Arguments : DotArgumentsOf<DeviceDotProblem> {
    const char* op;
    Tensor scale;
    OptionalTensor bias;
    torch::stable::accelerator::DeviceGuard guard;
  };

  static Arguments arguments(const char* op, const Tensor& x, const Tensor& y, const Tensor& scale,
                             const OptionalTensor& bias, const OptionalTensor& target, const OptionalTensor& x_label,
                             const OptionalTensor& y_label, const OptionalTensor& candidate_log_weight, bool tf32) {
    check(x.is_cuda(), op, "expected all tensors on one GPU, but x is on ", device_name(x));
    const double* scale_pointer = scalar_on_device(op, "scale", scale, x);
    const double* bias_pointer = bias ? scalar_on_device(op, "bias", *bias, x) : nullptr;
    torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
    Arguments a{described_arguments<DeviceDotProblem>(op, x, y, target, x_label, y_label, candidate_log_weight), op,
                scale, bias, std::move(guard)};
    a.problem.scale = scale_pointer, a.problem.bias = bias_pointer;
    a.problem.tf32 = tf32;
    a.problem.multiprocessors = device_attribute(op, cudaDevAttrMultiProcessorCount, x.get_device_index());
    return a;
  }

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
