// softplus(s) and sigmoid(s) on a device.
#pragma once
#include "../core/log_sum_exp.h"
#include "../core/logistic.h"
#include "../core/polynomials.h"
#include "mma.cuh"

namespace mi::cuda {

__device__ __forceinline__ float log1p_of(float t) {
  float q = 0;
#pragma unroll
  for (int k = 0; k < kLog1pPolynomialTerms; k++) q = fma(q, t, log1p_coefficient(k));
  return fma(t * t, q, t);
}
__device__ __forceinline__ double log1p_of(double t) { return log1p(t); }

// s = nats * score; decay = e^{-|s|}.
template <class Scalar>
__device__ __forceinline__ Logistic<Scalar> logistic(Scalar score, Scalar nats, Scalar decay) {
  return mi::logistic(score, nats, decay, log1p_of(decay), reciprocal(1 + decay));
}

// Of a score in log2 units.
template <class Scalar>
__device__ __forceinline__ Logistic<Scalar> logistic(Scalar score) {
  return logistic(score, Scalar(kLn2), exp2_of(-fabs(score)));
}

}  // namespace mi::cuda
