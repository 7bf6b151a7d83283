#include "../gathered_instantiate.cuh"

namespace mi::cuda {
const GatheredKernels gathered_bfloat16 = gathered_kernels_of<__nv_bfloat16>();
}
