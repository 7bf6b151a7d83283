#include "../gathered_instantiate.cuh"

namespace mi::cuda {
const GatheredKernels gathered_float64 = gathered_kernels_of<double>();
}
