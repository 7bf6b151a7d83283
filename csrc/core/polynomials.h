// Coefficients of the element functions, one place for every backend.
#pragma once
#include "macros.h"

namespace mi {

// 2^f on [-1/2, 1/2] as sum c_k f^k, highest power first: near-minimax for float (relative error 9e-9), Taylor's ln2^k
// / k! for double.
template <class Scalar>
struct Exp2Polynomial;

template <>
struct Exp2Polynomial<float> {
  static constexpr int kTerms = 7;
  static constexpr float kCoefficients[kTerms] = {0.00015461447765119374f,
                                                  0.0013390866806730628f,
                                                  0.009618056938052177f,
                                                  0.055503569543361664f,
                                                  0.24022650718688965f,
                                                  0.6931471824645996f,
                                                  1.0f};
};

template <>
struct Exp2Polynomial<double> {
  static constexpr int kTerms = 14;
  static constexpr double kCoefficients[kTerms] = {1.3691488853904124e-12, 2.5678435993488196e-11,
                                                   4.44553827187081e-10,   7.054911620801121e-09,
                                                   1.0178086009239696e-07, 1.3215486790144305e-06,
                                                   1.5252733804059838e-05, 0.00015403530393381606,
                                                   0.0013333558146428441,  0.009618129107628477,
                                                   0.055504108664821576,   0.2402265069591007,
                                                   0.6931471805599453,     1.0};
};

// log1p(t) = 2 z (1 + z^2/3 + z^4/5 + ...), z = t / (2 + t) in [0, 1/3] for t in [0, 1]; terms needed to reach the last
// digit.
template <class Scalar>
constexpr int kLog1pTerms = sizeof(Scalar) == 4 ? 8 : 17;

}  // namespace mi
