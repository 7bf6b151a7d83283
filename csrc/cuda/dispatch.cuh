// From the dtype of a problem to the tilings of its elements.
#pragma once
#include "../core/params.h"
#include "traits.cuh"

namespace mi::cuda {

// Runs `call` with a value of Traits<Element>.
template <class Call>
auto with_traits(Dtype dtype, Call&& call) {
  switch (dtype) {
    case Dtype::kBFloat16:
      return call(Traits<__nv_bfloat16>{});
    case Dtype::kFloat16:
      return call(Traits<__half>{});
    case Dtype::kFloat64:
      return call(Traits<double>{});
    default:
      return call(Traits<float>{});
  }
}

}  // namespace mi::cuda
