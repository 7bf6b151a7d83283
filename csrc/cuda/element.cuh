// Elements of features of any dtype, one at a time.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../core/params.h"

namespace mi::cuda {

__device__ inline double element(const void* data, Dtype dtype, int64_t k) {
  switch (dtype) {
    case Dtype::kBFloat16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[k]);
    case Dtype::kFloat16:
      return __half2float(static_cast<const __half*>(data)[k]);
    case Dtype::kFloat64:
      return static_cast<const double*>(data)[k];
    default:
      return static_cast<const float*>(data)[k];
  }
}

}  // namespace mi::cuda
