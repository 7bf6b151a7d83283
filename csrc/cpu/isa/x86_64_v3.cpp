#define MI_ISA x86_64_v3
#define MI_ISA_NAME "x86-64-v3"
#include "../kernels-inl.h"

namespace mi {
const CpuKernels& kernels_x86_64_v3() { return x86_64_v3::kKernels; }
}  // namespace mi
