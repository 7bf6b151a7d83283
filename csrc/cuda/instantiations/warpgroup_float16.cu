#include "../warpgroup_forward.cuh"
#include "../warpgroup_gradient.cuh"

namespace mi::cuda {
const WarpgroupKernels float16_warpgroup_kernels = {warpgroup_log_sum_exp<__half>(), warpgroup_gradients<__half>()};
}
