#define MI_ISA x86_64_v4
#define MI_ISA_NAME "x86-64-v4"
#include "../kernels-inl.h"

namespace mi {
const CpuKernels& kernels_x86_64_v4() { return x86_64_v4::kKernels; }
}  // namespace mi
