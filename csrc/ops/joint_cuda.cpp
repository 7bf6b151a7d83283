// The joint operators on a GPU. Nothing waits for it: scalars and indices stay there, and the walks see to bad ones.
#include "../cuda/joint.h"
#include "gpu.h"
#include "joint_operators.h"

namespace mi {
namespace {

struct Cuda {
  using Problem = DeviceJointProblem;
  struct Arguments : JointArgumentsOf<Problem> {
    const char* op;
    OptionalTensor bias;
    torch::stable::accelerator::DeviceGuard guard;
  };

  static Arguments arguments(const char* op, JointArgumentsOf<Problem> tensors, const OptionalTensor& bias) {
    const Tensor& a = tensors.a;
    check(a.is_cuda(), op, "expected all tensors on one GPU, but a is on ", device_of(a));
    torch::stable::accelerator::DeviceGuard guard(a.get_device_index());
    describe(op, tensors);
    Problem& p = tensors.problem;
    p.multiprocessors = device_attribute(op, cudaDevAttrMultiProcessorCount, a.get_device_index());
    if (bias) {
      check(bias->dim() == 0 && bias->scalar_type() == ScalarType::Double, op, "bias must be a 0-dim float64 tensor");
      check_device(op, "bias", *bias, a, "a");
      p.bias = static_cast<const double*>(bias->const_data_ptr());
    }
    return {std::move(tensors), op, bias, std::move(guard)};
  }

  static void statistics(const Arguments& a, const JointStatistics& statistics) {
    enqueue(a.op, a.a, cuda::joint_statistics_workspace(a.problem, statistics),
            [&](void* workspace, cudaStream_t stream) {
              return cuda::joint_statistics(a.problem, statistics, workspace, stream);
            });
  }

  static void fused(const Arguments& a, const PartitionWeights& weights, const JointStatistics& statistics,
                    const JointGradients& gradients, double* loss) {
    enqueue(a.op, a.a, cuda::joint_fused_workspace(a.problem), [&](void* workspace, cudaStream_t stream) {
      return cuda::joint_fused(a.problem, weights, statistics, gradients, loss, workspace, stream);
    });
  }

  static void gradient(const Arguments& a, const UpstreamGradients& upstream, const JointGradients& gradients) {
    enqueue(a.op, a.a, cuda::joint_gradient_workspace(a.problem), [&](void* workspace, cudaStream_t stream) {
      return cuda::joint_gradient(a.problem, upstream, gradients, workspace, stream);
    });
  }

  static void softplus_sum(const Arguments& a, double* value, const JointGradients* gradients, double* bias_gradient) {
    enqueue(a.op, a.a, cuda::joint_softplus_sum_workspace(a.problem, gradients != nullptr),
            [&](void* workspace, cudaStream_t stream) {
              return cuda::joint_softplus_sum(a.problem, value, bias_gradient, gradients, workspace, stream);
            });
  }

  static void ranking(const Arguments& a, const DotRanking& ranking) {
    enqueue(a.op, a.a, cuda::joint_ranking_workspace(a.problem), [&](void* workspace, cudaStream_t stream) {
      return cuda::joint_ranking(a.problem, ranking, workspace, stream);
    });
  }

  static void matrix(const Arguments& a, void* scores) {
    enqueue(a.op, a.a, cuda::joint_matrix_workspace(a.problem), [&](void* workspace, cudaStream_t stream) {
      return cuda::joint_matrix(a.problem, scores, workspace, stream);
    });
  }

  static void matrix_gradient(const Arguments& a, const void* upstream, const JointGradients& gradients) {
    enqueue(a.op, a.a, cuda::joint_matrix_gradient_workspace(a.problem), [&](void* workspace, cudaStream_t stream) {
      return cuda::joint_matrix_gradient(a.problem, upstream, gradients, workspace, stream);
    });
  }
};

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CUDA, library) { JointOperators<Cuda>::implement(library); }

}  // namespace
}  // namespace mi
