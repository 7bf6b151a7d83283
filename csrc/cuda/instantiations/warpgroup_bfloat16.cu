#include "../warpgroup_forward.cuh"
#include "../warpgroup_gradient.cuh"

namespace mi::cuda {
const WarpgroupKernels bfloat16_warpgroup_kernels = {
    warpgroup_rows<__nv_bfloat16, false>(), warpgroup_rows<__nv_bfloat16, true>(),
    warpgroup_rows_and_columns<__nv_bfloat16>(), warpgroup_gradients<__nv_bfloat16>()};
}
