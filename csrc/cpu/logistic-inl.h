// softplus and sigmoid of vectors.
#pragma once
#include "../core/logistic.h"
#include "../core/polynomials.h"
#include "vec.h"

namespace mi {
namespace MI_ISA {

// log(1 + t) for t in [0, 1], relative error of a few ulp down to the smallest t.
template <class T>
MI_INLINE Vec<T> log1p(Vec<T> t) {
  if constexpr (sizeof(T) == 4) {
    Vec<T> q = broadcast(log1p_coefficient(0));
#pragma GCC unroll 8
    for (int k = 1; k < kLog1pPolynomialTerms; k++) q = q * t + log1p_coefficient(k);
    return t + t * t * q;
  } else {
    const Vec<T> z = t / (t + T(2)), z2 = z * z;
    Vec<T> p = broadcast(T(1) / T(2 * kLog1pTerms - 1));
#pragma GCC unroll 20
    for (int k = kLog1pTerms - 2; k >= 0; k--) p = p * z2 + T(1) / T(2 * k + 1);
    return T(2) * z * p;
  }
}

// 1 / x for normal numbers x.
template <class T>
MI_INLINE Vec<T> reciprocal(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    // An estimate of 14 bits and a step of Newton's method, in place of a division.
    const Vec<T> estimate = (Vec<T>)_mm512_rcp14_ps((__m512)x);
    return estimate + estimate * (T(1) - x * estimate);
  }
#endif
  return T(1) / x;
}

// softplus(s) and sigmoid(s), s = nats * score, from decay = e^{-|s|}.
template <class T>
MI_INLINE Logistic<Vec<T>> logistic(Vec<T> score, T nats, Vec<T> decay) {
  return mi::logistic(score, nats, decay, log1p<T>(decay), reciprocal<T>(decay + T(1)));
}

}  // namespace MI_ISA
}  // namespace mi
