// log sum exp as a value that can be merged: the pair (reference r, sum of 2^(s - r)), unit (lowest, 0).
#pragma once
#include <cmath>

#include "macros.h"

namespace mi {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;
constexpr double kInfinity = __builtin_huge_val();

// A finite unit keeps (-inf) - (-inf) out of the arithmetic.
constexpr double kLowestReference = -1.7e308;

struct LogSumExp2 {
  double reference = kLowestReference;
  double sum = 0;
};

MI_HOST_DEVICE LogSumExp2 merge(LogSumExp2 a, LogSumExp2 b) {
  if (b.sum == 0) return a;
  if (a.sum == 0) return b;
  const double reference = a.reference > b.reference ? a.reference : b.reference;
  return {reference, a.sum * std::exp2(a.reference - reference) + b.sum * std::exp2(b.reference - reference)};
}

// log2 of what was summed; -inf for nothing.
MI_HOST_DEVICE double log2_value(LogSumExp2 a) { return a.sum == 0 ? -kInfinity : a.reference + std::log2(a.sum); }

// log(e^a + e^b) in nats.
MI_HOST_DEVICE double log_add_exp(double a, double b) {
  if (a != a || b != b) return a + b;
  const double high = a > b ? a : b;
  if (high == -kInfinity || high == kInfinity) return high;
  return high + std::log1p(std::exp(-std::fabs(a - b)));
}

}  // namespace mi
