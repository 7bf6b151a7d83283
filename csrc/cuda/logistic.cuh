// softplus(s) and sigmoid(s) on a device.
#pragma once
#include "../core/log_sum_exp.h"
#include "../core/logistic.h"
#include "mma.cuh"

namespace mi::cuda {

// s = nats * score; decay = e^{-|s|}.
template <class Scalar>
__device__ __forceinline__ Logistic<Scalar> logistic(Scalar score, Scalar nats, Scalar decay) {
  return mi::logistic(score, nats, decay, log1p(decay), reciprocal(1 + decay));
}

// Of a score in log2 units.
template <class Scalar>
__device__ __forceinline__ Logistic<Scalar> logistic(Scalar score) {
  return logistic(score, Scalar(kLn2), exp2_of(score > 0 ? -score : score));
}

}  // namespace mi::cuda
