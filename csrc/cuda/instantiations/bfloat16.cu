#include "../instantiate.cuh"

namespace mi::cuda {
const PairwiseKernels bfloat16_kernels = pairwise_kernels_of<__nv_bfloat16>(0);
}
