#define MI_ISA neon
#define MI_ISA_NAME "neon"
#include "../kernels-inl.h"

namespace mi {
const CpuKernels& kernels_neon() { return neon::kKernels; }
}  // namespace mi
