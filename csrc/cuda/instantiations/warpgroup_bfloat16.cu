#include "../warpgroup_forward.cuh"
#include "../warpgroup_gradient.cuh"

namespace mi::cuda {
const WarpgroupKernels bfloat16_warpgroup_kernels = {warpgroup_log_sum_exp<__nv_bfloat16>(),
                                                     warpgroup_gradients<__nv_bfloat16>()};
}
