// Stands in for the CUDA runtime: a launch calls back with the kernel's name, its shape and its arguments. Beside it
// the walks of csrc/cuda's headers under C names.
#include "../../csrc/cuda/gathered.h"
#include "../../csrc/cuda/importance.h"
#include "../../csrc/cuda/joint.h"
#include "../../csrc/cuda/kernels.h"
#include "../../csrc/cuda/ranking.h"

#include <cuda_runtime.h>

#include <string>
#include <unordered_map>

using namespace mi;

namespace {

using LaunchCallback = int (*)(const char* kernel, const unsigned* grid, unsigned threads, size_t shared,
                               void** arguments);
LaunchCallback on_launch = nullptr;

std::unordered_map<const void*, std::string>& kernel_names() {
  static std::unordered_map<const void*, std::string> names;
  return names;
}
std::unordered_map<const void*, size_t>& allowed_shared_bytes() {
  static std::unordered_map<const void*, size_t> bytes;
  return bytes;
}

struct Configuration {
  dim3 grid, block;
  size_t shared = 0;
  cudaStream_t stream = nullptr;
} configuration;

cudaError_t last_error = cudaSuccess;

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaRegisterFunction(void**, const char* host, char*, const char* device, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  kernel_names()[host] = device;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid, *block = configuration.block, *shared = configuration.shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  const void* host = kernel;
  const unsigned blocks[3] = {grid.x, grid.y, grid.z};
  last_error =
      shared > kWithoutAsking && shared > allowed_shared_bytes()[host]
          ? cudaErrorInvalidValue
          : static_cast<cudaError_t>(on_launch(kernel_names().at(host).c_str(), blocks, block.x, shared, arguments));
  return last_error;
}
cudaError_t cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  const size_t allowed = allowed_shared_bytes().emplace(host, value).first->second;
  return allowed == static_cast<size_t>(value) ? cudaSuccess : cudaErrorInvalidValue;  // a thread takes it from another
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

void set_launch(LaunchCallback callback) { on_launch = callback; }

size_t statistics_workspace(const DeviceDotProblem* p, const DotStatistics* s) {
  return cuda::statistics_workspace(*p, *s);
}
int statistics(const DeviceDotProblem* p, const DotStatistics* s, void* workspace) {
  return cuda::statistics(*p, *s, workspace, nullptr);
}
size_t fused_workspace(const DeviceDotProblem* p, const DotGradients* g) { return cuda::fused_workspace(*p, *g); }
int fused(const DeviceDotProblem* p, const PartitionWeights* weights, const double* external_positive,
          const DotStatistics* s, const DotGradients* g, double* positive_gradient, double* loss, void* workspace) {
  return cuda::fused(*p, *weights, external_positive, *s, *g, positive_gradient, loss, workspace, nullptr);
}
size_t gradient_workspace(const DeviceDotProblem* p, const UpstreamGradients* up, const DotGradients* g) {
  return cuda::gradient_workspace(*p, *up, *g);
}
int gradient(const DeviceDotProblem* p, const UpstreamGradients* up, const DotGradients* g, void* workspace) {
  return cuda::gradient(*p, *up, *g, workspace, nullptr);
}
size_t softplus_sum_workspace(const DeviceDotProblem* p, const DotGradients* g) {
  return cuda::softplus_sum_workspace(*p, *g);
}
int softplus_sum(const DeviceDotProblem* p, double* positive, double* value, const DotGradients* g, void* workspace) {
  return cuda::softplus_sum(*p, positive, value, *g, workspace, nullptr);
}

size_t ranking_workspace(const DeviceDotProblem* p, const Features* external_positive) {
  return cuda::ranking_workspace(*p, *external_positive);
}
int ranking(const DeviceDotProblem* p, const Features* external_positive, const DotRanking* r, void* workspace) {
  return cuda::ranking(*p, *external_positive, *r, workspace, nullptr);
}

size_t importance_statistics_workspace(const DeviceImportanceProblem* p) {
  return cuda::importance_statistics_workspace(*p);
}
int importance_statistics(const DeviceImportanceProblem* p, const ImportanceStatistics* s, void* workspace) {
  return cuda::importance_statistics(*p, *s, workspace, nullptr);
}
size_t importance_fused_workspace(const DeviceImportanceProblem* p, const ImportanceGradients* g) {
  return cuda::importance_fused_workspace(*p, *g);
}
int importance_fused(const DeviceImportanceProblem* p, const ImportanceObjective* objective,
                     const ImportanceStatistics* s, const ImportanceGradients* g, double* const* positive_gradient,
                     double* loss, double* terms, void* workspace) {
  return cuda::importance_fused(*p, *objective, *s, *g, positive_gradient, loss, terms, workspace, nullptr);
}
size_t importance_gradient_workspace(const DeviceImportanceProblem* p, const ImportanceGradients* g) {
  return cuda::importance_gradient_workspace(*p, *g);
}
int importance_gradient(const DeviceImportanceProblem* p, const ImportanceStatistics* s, const ImportanceUpstream* up,
                        const ImportanceGradients* g, void* workspace) {
  return cuda::importance_gradient(*p, *s, *up, *g, workspace, nullptr);
}

size_t gathered_workspace(const DeviceGatheredProblem* p, const bool* query_gradient) {
  return cuda::gathered_workspace(*p, *query_gradient);
}
int gathered_lse(const DeviceGatheredProblem* p, const double* clip, double* negative_lse, void* workspace) {
  return cuda::gathered_lse(*p, *clip, negative_lse, workspace, nullptr);
}
int gathered_fused(const DeviceGatheredProblem* p, const PartitionWeights* weights, const cuda::GatheredLoss* loss,
                   const DotGradients* g, void* scores, void* workspace) {
  return cuda::gathered_fused(*p, *weights, *loss, *g, scores, workspace, nullptr);
}
int gathered_gradient(const DeviceGatheredProblem* p, const UpstreamGradients* up, const DotGradients* g, void* scores,
                      void* workspace) {
  return cuda::gathered_gradient(*p, *up, *g, scores, workspace, nullptr);
}
int gathered_softplus_sum(const DeviceGatheredProblem* p, double* value, const DotGradients* g, void* scores,
                          void* workspace) {
  return cuda::gathered_softplus_sum(*p, value, *g, scores, workspace, nullptr);
}
size_t negatives_gradient_workspace(const DeviceGatheredProblem* p) { return cuda::negatives_gradient_workspace(*p); }
int negatives_gradient(const DeviceGatheredProblem* p, const cuda::PairWeights* weights, void* gradient,
                       void* workspace) {
  return cuda::negatives_gradient(*p, *weights, gradient, workspace, nullptr);
}
int bank_keys(const DeviceGatheredProblem* p, const cuda::SortedPairs* pairs, int32_t* keys, void*) {
  return cuda::bank_keys(*p, *pairs, keys, nullptr);
}
size_t bank_gradient_workspace(const DeviceGatheredProblem* p, const cuda::SortedPairs* pairs) {
  return cuda::bank_gradient_workspace(*p, *pairs);
}
int bank_gradient(const DeviceGatheredProblem* p, const cuda::PairWeights* weights, const cuda::SortedPairs* sorted,
                  void* gradient, void* workspace) {
  return cuda::bank_gradient(*p, *weights, *sorted, gradient, workspace, nullptr);
}

size_t gathered_ranking_workspace(const DeviceGatheredProblem* p) { return cuda::gathered_ranking_workspace(*p); }
int gathered_ranking(const DeviceGatheredProblem* p, const Features* positives, const DotRanking* r, void* workspace) {
  return cuda::gathered_ranking(*p, *positives, *r, workspace, nullptr);
}

size_t joint_statistics_workspace(const DeviceJointProblem* p, const JointStatistics* s) {
  return cuda::joint_statistics_workspace(*p, *s);
}
int joint_statistics(const DeviceJointProblem* p, const JointStatistics* s, void* workspace) {
  return cuda::joint_statistics(*p, *s, workspace, nullptr);
}
size_t joint_fused_workspace(const DeviceJointProblem* p) { return cuda::joint_fused_workspace(*p); }
int joint_fused(const DeviceJointProblem* p, const PartitionWeights* weights, const JointStatistics* s,
                const JointGradients* g, double* loss, void* workspace) {
  return cuda::joint_fused(*p, *weights, *s, *g, loss, workspace, nullptr);
}
size_t joint_gradient_workspace(const DeviceJointProblem* p) { return cuda::joint_gradient_workspace(*p); }
int joint_gradient(const DeviceJointProblem* p, const UpstreamGradients* up, const JointGradients* g, void* workspace) {
  return cuda::joint_gradient(*p, *up, *g, workspace, nullptr);
}
size_t joint_softplus_sum_workspace(const DeviceJointProblem* p, const JointGradients* g) {
  return cuda::joint_softplus_sum_workspace(*p, g->last_weight != nullptr);
}
int joint_softplus_sum(const DeviceJointProblem* p, double* value, double* bias_gradient, const JointGradients* g,
                       void* workspace) {
  return cuda::joint_softplus_sum(*p, value, bias_gradient, g->last_weight ? g : nullptr, workspace, nullptr);
}
size_t joint_ranking_workspace(const DeviceJointProblem* p) { return cuda::joint_ranking_workspace(*p); }
int joint_ranking(const DeviceJointProblem* p, const DotRanking* r, void* workspace) {
  return cuda::joint_ranking(*p, *r, workspace, nullptr);
}
size_t joint_matrix_workspace(const DeviceJointProblem* p) { return cuda::joint_matrix_workspace(*p); }
int joint_matrix(const DeviceJointProblem* p, void* scores, void* workspace) {
  return cuda::joint_matrix(*p, scores, workspace, nullptr);
}
size_t joint_matrix_gradient_workspace(const DeviceJointProblem* p) {
  return cuda::joint_matrix_gradient_workspace(*p);
}
int joint_matrix_gradient(const DeviceJointProblem* p, const void* upstream, const JointGradients* g, void* workspace) {
  return cuda::joint_matrix_gradient(*p, upstream, *g, workspace, nullptr);
}
}
