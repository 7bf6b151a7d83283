// Arguments of the operators on dot scores on a GPU. Nothing waits for it: scalars and indices stay there, and the
// walks see to bad ones.
#pragma once
#include "dot_arguments.h"
#include "gpu.h"

namespace mi {

struct DeviceDotArguments : DotArgumentsOf<DeviceDotProblem> {
  const char* op;
  Tensor scale;
  OptionalTensor bias;
  torch::stable::accelerator::DeviceGuard guard;
};

inline DeviceDotArguments device_dot_arguments(const char* op, const Tensor& x, const Tensor& y, const Tensor& scale,
                                               const OptionalTensor& bias, const OptionalTensor& target,
                                               const OptionalTensor& x_label, const OptionalTensor& y_label,
                                               const OptionalTensor& candidate_log_weight, bool tf32) {
  check(x.is_cuda(), op, "expected all tensors on one GPU, but x is on ", device_of(x));
  const double* scale_pointer = scalar_on_device(op, "scale", scale, x);
  const double* bias_pointer = bias ? scalar_on_device(op, "bias", *bias, x) : nullptr;
  torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  DeviceDotArguments a{described_arguments<DeviceDotProblem>(op, x, y, target, x_label, y_label, candidate_log_weight),
                       op, scale, bias, std::move(guard)};
  a.problem.scale = scale_pointer;
  a.problem.bias = bias_pointer;
  a.problem.tf32 = tf32;
  a.problem.multiprocessors = device_attribute(op, cudaDevAttrMultiProcessorCount, x.get_device_index());
  a.problem.capability = compute_capability(op, x.get_device_index());
  return a;
}

}  // namespace mi
