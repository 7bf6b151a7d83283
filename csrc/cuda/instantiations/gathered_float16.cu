#include "../gathered_instantiate.cuh"

namespace mi::cuda {
const GatheredKernels gathered_float16 = gathered_kernels_of<__half>();
}
