#include "../warpgroup_forward.cuh"

namespace mi::cuda {
const ForwardKernel float16_warpgroup_log_sum_exp = warpgroup_log_sum_exp<__half>();
}
