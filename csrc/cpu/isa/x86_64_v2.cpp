#define MI_ISA x86_64_v2
#define MI_ISA_NAME "x86-64-v2"
#include "../kernels-inl.h"

namespace mi {
const CpuKernels& kernels_x86_64_v2() { return x86_64_v2::kKernels; }
}  // namespace mi
