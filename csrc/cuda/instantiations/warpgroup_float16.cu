#include "../warpgroup_forward.cuh"
#include "../warpgroup_gradient.cuh"

namespace mi::cuda {
const WarpgroupKernels float16_warpgroup_kernels = {warpgroup_rows<__half, false>(), warpgroup_rows<__half, true>(),
                                                    warpgroup_rows_and_columns<__half>(),
                                                    warpgroup_gradients<__half>()};
}
