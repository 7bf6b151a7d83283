#include "../instantiate.cuh"

namespace mi::cuda {
const PairwiseKernels float16_kernels = pairwise_kernels_of<__half>(14);
}
