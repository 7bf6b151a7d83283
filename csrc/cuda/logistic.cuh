// softplus(s) and sigmoid(s) on a device.
#pragma once
#include "../core/log_sum_exp.h"
#include "../core/logistic.h"
#include "mma.cuh"

namespace mi::cuda {

// log(1 + t) for t in [0, 1] as t + t^2 q(t), with a relative error of at most 1.3e-7, also where t is tiny: q is the
// polynomial of degree 7 for which that error is smallest.
__device__ __forceinline__ float log1p_of(float t) {
  constexpr float kCoefficients[] = {0.00536482433f, -0.0300657923f, 0.0792045396f, -0.137538023f,
                                     0.191536549f,   -0.248571637f,  0.333213226f,  -0.499996480f};
  float q = 0;
#pragma unroll
  for (float coefficient : kCoefficients) q = fma(q, t, coefficient);
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
