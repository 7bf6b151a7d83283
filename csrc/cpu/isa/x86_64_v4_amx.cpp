#define MI_ISA x86_64_v4_amx
#define MI_ISA_NAME "x86-64-v4+amx"
#include "../bfloat16-inl.h"

namespace mi {
const CpuKernels& kernels_x86_64_v4_amx() {
  static const CpuKernels kernels = x86_64_v4_amx::make_kernels();
  return kernels;
}
}  // namespace mi
