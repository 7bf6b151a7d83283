#include "../instantiate.cuh"

namespace mi::cuda {
const PairwiseKernels float64_kernels = pairwise_kernels_of<double>(0);
}
