#define MI_ISA x86_64_v4_bf16
#define MI_ISA_NAME "x86-64-v4+bf16"
#include "../bfloat16-inl.h"

namespace mi {
const CpuKernels& kernels_x86_64_v4_bf16() {
  static const CpuKernels kernels = x86_64_v4_bf16::make_kernels();
  return kernels;
}
}  // namespace mi
