// Verbs on vectors of one register, templated on the element; the width comes with the instruction set's flags.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../core/macros.h"
#include "../core/polynomials.h"

#define MI_INLINE static inline __attribute__((always_inline))
#define MI_NOINLINE static __attribute__((noinline))

namespace mi {
namespace MI_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kVectorsWide = 4;  // a 6 x 4 tile leaves 8 of 32 registers to operands
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kVectorsWide = 2;  // 6 x 2 of 16 registers
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kVectorsWide = 4;
#else
constexpr int kVectorBytes = 16;
constexpr int kVectorsWide = 2;
#endif
constexpr int kRowsHigh = 6;

// Queries a thread holds at a time. Products of bfloat16 are so fast that the sums' way to memory counts: twice as
// many. Blocks of x86-64-v2 end within a panel of lanes, as those of AVX-512 do: so any machine tests that.
#if defined(__AVX512BF16__) || defined(__AMX_BF16__)
constexpr int64_t kQueryBlock = 192;
#elif defined(__x86_64__) && !defined(__AVX2__)
constexpr int64_t kQueryBlock = 100;
#else
constexpr int64_t kQueryBlock = 96;
#endif

template <class T>
struct VecOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};
template <class T>
using Vec = typename VecOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / sizeof(T);
template <class T>
using IntOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <class T>
MI_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VecOf<T>::unaligned*>(p);
}
template <class T>
MI_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VecOf<T>::unaligned*>(p) = v;
}
template <class T>
MI_INLINE Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

// *p in every lane. As an integer it comes with the load alone; as a float, on Zen 4, it also takes the time of half an
// addition.
template <class T>
MI_INLINE Vec<T> broadcast_load(const T* p) {
  IntOf<T> bits;
  std::memcpy(&bits, p, sizeof bits);
  return (Vec<T>)(bits - Vec<IntOf<T>>{});
}

// NaN in b is kept, NaN in a is dropped.
template <class T>
MI_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_max_ps((__m256)a, (__m256)b);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm256_max_pd((__m256d)a, (__m256d)b);
#endif
  return a > b ? a : b;
}
template <class T>
MI_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_min_ps((__m256)a, (__m256)b);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm256_min_pd((__m256d)a, (__m256d)b);
#endif
  return a < b ? a : b;
}

template <class T>
MI_INLINE bool any_greater(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
  if constexpr (sizeof(T) == 8) return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ) != 0;
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return _mm256_movemask_ps((__m256)(a > b)) != 0;
  if constexpr (sizeof(T) == 8) return _mm256_movemask_pd((__m256d)(a > b)) != 0;
#else
  Vec<IntOf<T>> greater = a > b;
  IntOf<T> any = 0;
  for (int lane = 0; lane < kLanes<T>; lane++) any |= greater[lane];
  return any != 0;
#endif
}

// sum + term, exactly, as term * 1 + sum: where comparisons keep the units that add busy, those that multiply are free.
template <class T>
MI_INLINE Vec<T> add_by_product(Vec<T> sum, Vec<T> term) {
#if defined(__AVX512F__)
  const Vec<T> ones = Vec<T>{} + T(1);  // a compiler that knew them would add
  if constexpr (sizeof(T) == 4)
    asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(term), "v"(ones));
  else
    asm("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(term), "v"(ones));
  return sum;
#elif defined(__AVX2__)
  // The ones stay in memory, since no register is left.
  static constexpr Vec<T> kOnes = Vec<T>{} + T(1);
  if constexpr (sizeof(T) == 4)
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(term), "m"(kOnes));
  else
    asm("vfmadd231pd %2, %1, %0" : "+x"(sum) : "x"(term), "m"(kOnes));
  return sum;
#else
  return sum + term;
#endif
}

// Adds x to both sums in the lanes where a > b, and a NaN in x where a or b is NaN. The units that multiply make masks
// of lanes, too: kByProduct, for about half of all calls, lets them add to the second sum.
template <bool kByProduct, class T>
MI_INLINE void add_where_greater(Vec<T> a, Vec<T> b, Vec<T> x, Vec<T>& first, Vec<T>& second) {
#if defined(__AVX512F__)
  const Vec<T> ones = Vec<T>{} + T(1);
  if constexpr (sizeof(T) == 4) {
    const __mmask16 lanes = _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ);
    first = (Vec<T>)_mm512_mask_add_ps((__m512)first, lanes, (__m512)first, (__m512)x);
    if constexpr (kByProduct)
      asm("vfmadd231ps %2, %1, %0%{%3%}" : "+v"(second) : "v"(x), "v"(ones), "Yk"(lanes));
    else
      second = (Vec<T>)_mm512_mask_add_ps((__m512)second, lanes, (__m512)second, (__m512)x);
  } else {
    const __mmask8 lanes = _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NLE_UQ);
    first = (Vec<T>)_mm512_mask_add_pd((__m512d)first, lanes, (__m512d)first, (__m512d)x);
    if constexpr (kByProduct)
      asm("vfmadd231pd %2, %1, %0%{%3%}" : "+v"(second) : "v"(x), "v"(ones), "Yk"(lanes));
    else
      second = (Vec<T>)_mm512_mask_add_pd((__m512d)second, lanes, (__m512d)second, (__m512d)x);
  }
#else
  const Vec<T> active = a > b ? Vec<T>{} + T(1) : Vec<T>{};
  first += active * x;  // fused: the units that add are busy with comparisons
  second += active * x;
#endif
}

// Pairs first: half the length of the chain of additions.
template <class T, int kCount>
MI_INLINE Vec<T> sum_of(const Vec<T> (&v)[kCount]) {
  Vec<T> sum = v[0];
#pragma GCC unroll 8
  for (int i = 1; i + 1 < kCount; i += 2) sum += v[i] + v[i + 1];
  return kCount % 2 ? sum : sum + v[kCount - 1];
}

// One bit a lane: a > b.
template <class T>
MI_INLINE uint16_t greater_bits(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
  if constexpr (sizeof(T) == 8) return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return _mm256_movemask_ps((__m256)(a > b));
  if constexpr (sizeof(T) == 8) return _mm256_movemask_pd((__m256d)(a > b));
#else
  const Vec<IntOf<T>> greater = a > b;
  uint16_t bits = 0;
  for (int lane = 0; lane < kLanes<T>; lane++) bits |= (greater[lane] & 1) << lane;
  return bits;
#endif
}

// x in the lanes whose bit is set, else 0.
template <class T>
MI_INLINE Vec<T> where_set(uint16_t bits, Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_mov_ps(bits, (__m512)x);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_maskz_mov_pd(static_cast<__mmask8>(bits), (__m512d)x);
#else
  Vec<IntOf<T>> lane_bit;
  for (int lane = 0; lane < kLanes<T>; lane++) lane_bit[lane] = IntOf<T>(1) << lane;
  return (broadcast(static_cast<IntOf<T>>(bits)) & lane_bit) != 0 ? x : Vec<T>{};
#endif
}

template <class T>
MI_INLINE double horizontal_sum(Vec<T> v) {
  double sum = 0;
  for (int lane = 0; lane < kLanes<T>; lane++) sum += v[lane];
  return sum;
}

// s = 2^s; exactly 0 at -inf, inf at inf, NaN at NaN. Subnormal results may come out as 0. Each step is taken for all
// vectors before the next one: its latency is ten times its cost, and processors look ahead a few dozen steps only.
template <class T, int kCount>
MI_INLINE void exp2_all(Vec<T> (&s)[kCount]) {
  Vec<T> fraction[kCount], power[kCount];
#if defined(__AVX512F__)
  // reduce: s - floor(s), 0 at +-inf.
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i++)
    if constexpr (sizeof(T) == 4)
      fraction[i] = (Vec<T>)_mm512_reduce_ps((__m512)s[i], _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    else
      fraction[i] = (Vec<T>)_mm512_reduce_pd((__m512d)s[i], _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
  // Adding 1.5 * 2^mantissa + bias rounds to an integer, here floor(s), and leaves the exponent field of 2^floor(s) in
  // the low bits. Exponents -bias and bias + 1 are those of 0 and inf. Both clamps pass NaN.
  constexpr int kMantissa = std::numeric_limits<T>::digits - 1;
  constexpr T kBias = std::numeric_limits<T>::max_exponent - 1;
  const T round = T(3) * (IntOf<T>(1) << (kMantissa - 1)) + kBias;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i++) s[i] = min<T>(broadcast<T>(kBias + 1), max<T>(broadcast<T>(T(0.5) - kBias), s[i]));
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i++) power[i] = (s[i] - T(0.5)) + round;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i++) fraction[i] = s[i] - (power[i] - round);
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i++) s[i] = (Vec<T>)((Vec<IntOf<T>>)power[i] << kMantissa);
#endif
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i++) power[i] = broadcast(Exp2Polynomial<T>::kCoefficients[0]);
#pragma GCC unroll 16
  for (int k = 1; k < Exp2Polynomial<T>::kTerms; k++)
#pragma GCC unroll 8
    for (int i = 0; i < kCount; i++) power[i] = power[i] * fraction[i] + Exp2Polynomial<T>::kCoefficients[k];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i++)
#if defined(__AVX512F__)
    // scalef: times 2^floor(s).
    if constexpr (sizeof(T) == 4)
      s[i] = (Vec<T>)_mm512_scalef_ps((__m512)power[i], (__m512)s[i]);
    else
      s[i] = (Vec<T>)_mm512_scalef_pd((__m512d)power[i], (__m512d)s[i]);
#else
    s[i] *= power[i];
#endif
}

template <class T>
MI_INLINE Vec<T> exp2(Vec<T> s) {
  Vec<T> one[1] = {s};
  exp2_all<T>(one);
  return one[0];
}

}  // namespace MI_ISA
}  // namespace mi
