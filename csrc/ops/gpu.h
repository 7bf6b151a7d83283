// What every operator on a GPU needs: the device of its tensors, its stream, a workspace, and errors in words.
#pragma once
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "checks.h"

namespace mi {

inline int device_attribute(const char* op, cudaDeviceAttr attribute, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, attribute, device);
  check(error == cudaSuccess, op, "CUDA error: ", cudaGetErrorString(error));
  return value;
}

// 10 major + minor, as in sm_90.
inline int compute_capability(const char* op, int device) {
  return 10 * device_attribute(op, cudaDevAttrComputeCapabilityMajor, device) +
         device_attribute(op, cudaDevAttrComputeCapabilityMinor, device);
}

inline void check_launch(const char* op, cudaError_t error, int device) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the next call starts without it
  const bool is_missing = error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
                          error == cudaErrorUnsupportedPtxVersion || error == cudaErrorInvalidPtx;
  check(is_missing, op, "CUDA error: ", cudaGetErrorString(error));
  const int major = device_attribute(op, cudaDevAttrComputeCapabilityMajor, device);
  const int minor = device_attribute(op, cudaDevAttrComputeCapabilityMinor, device);
  check(major >= 8, op, "GPUs from compute capability 8.0 (sm_80) on are supported, but this one has ", major, ".",
        minor, "; move the tensors to the CPU");
  check(false, op, "this GPU is sm_", major, minor, ", but mi_ext was built for ", MI_EXT_CUDA_ARCHS,
        "; build it with MI_EXT_CUDA_ARCHS=sm_", major, minor);
}

// A 0-dim float64 tensor beside x; its value stays there.
inline const double* scalar_on_device(const char* op, const char* name, const Tensor& t, const Tensor& x) {
  check(t.dim() == 0 && t.scalar_type() == ScalarType::Double, op, name, " must be a 0-dim float64 tensor");
  check_device(op, name, t, x);
  return static_cast<const double*>(t.const_data_ptr());
}

// Enqueues a walk on the current stream of x's device, which is the current device of the caller. The workspace is
// given back at once: torch hands it out again to the same stream only.
template <class Walk>
void enqueue(const char* op, const Tensor& x, size_t workspace_bytes, const Walk& walk) {
  const Tensor workspace = new_tensor(x, {static_cast<int64_t>(workspace_bytes)}, ScalarType::Byte);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  check_launch(op, walk(workspace.mutable_data_ptr(), static_cast<cudaStream_t>(stream)), x.get_device_index());
}

}  // namespace mi
