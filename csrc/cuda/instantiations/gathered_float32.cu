#include "../gathered_instantiate.cuh"

namespace mi::cuda {
const GatheredKernels gathered_float32 = gathered_kernels_of<float>();
}
