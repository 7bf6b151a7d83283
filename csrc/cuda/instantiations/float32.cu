#include "../instantiate.cuh"

namespace mi::cuda {
const PairwiseKernels float32_kernels = pairwise_kernels_of<float>(0);
}
