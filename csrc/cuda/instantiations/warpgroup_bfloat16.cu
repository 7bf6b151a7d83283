#include "../warpgroup_forward.cuh"

namespace mi::cuda {
const ForwardKernel bfloat16_warpgroup_log_sum_exp = warpgroup_log_sum_exp<__nv_bfloat16>();
}
