// Coefficients of the element functions, one place for every backend.
#pragma once
#include "macros.h"

namespace mi {

// 2^f on [0, 1] as sum c_k f^k, highest power first: (2^f - 1) / f at Chebyshev nodes, and 1. Relative error 1.5e-8 for
// float, 2e-17 for double.
template <class Scalar>
struct Exp2Polynomial;

template <>
struct Exp2Polynomial<float> {
  static constexpr int kTerms = 7;
  static constexpr float kCoefficients[kTerms] = {0.0002081791462842375f,
                                                  0.0012692166492342949f,
                                                  0.009652195498347282f,
                                                  0.05549602210521698f,
                                                  0.24022720754146576f,
                                                  0.6931471824645996f,
                                                  1.0f};
};

template <>
struct Exp2Polynomial<double> {
  static constexpr int kTerms = 14;
  static constexpr double kCoefficients[kTerms] = {1.8929461005707507e-12, 2.4088611656788586e-11,
                                                   4.4728693343197767e-10, 7.051914272975354e-09,
                                                   1.0178306643797454e-07, 1.321547567961993e-06,
                                                   1.5252734186100637e-05, 0.00015403530384593925,
                                                   0.0013333558146558023,  0.00961812910762734,
                                                   0.05550410866482163,    0.24022650695910072,
                                                   0.6931471805599453,     1.0};
};

// log(1 + t) of a float t in [0, 1] as t + t^2 q(t), with a relative error of at most 1.3e-7, also where t is tiny: q,
// highest power first, is the polynomial of degree 7 for which that error is smallest.
constexpr int kLog1pPolynomialTerms = 8;
MI_HOST_DEVICE constexpr float log1p_coefficient(int term) {
  constexpr float kCoefficients[] = {0.00536482433f, -0.0300657923f, 0.0792045396f, -0.137538023f,
                                     0.191536549f,   -0.248571637f,  0.333213226f,  -0.499996480f};
  return kCoefficients[term];
}

// log1p of a double t as 2 z (1 + z^2/3 + z^4/5 + ...), z = t / (2 + t) in [0, 1/3]; terms needed to reach the last
// digit.
constexpr int kLog1pTerms = 17;

}  // namespace mi
