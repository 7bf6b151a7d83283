// Products of bfloat16 pairs with float32 sums: 32 x 32 blocks of C += A B, by AMX tiles or by dpbf16ps.
//   A [32][2 steps * 16]: rows of bfloat16, neighbours in K adjacent;  B [16 steps][32]: pairs of neighbours in K, one
//   a lane.
#pragma once
#include "tile-inl.h"
#include "tile-registers-inl.h"

namespace mi {
namespace MI_ISA {

#if defined(__AMX_BF16__)

// Pitches in bytes. Tiles 0-3: C, 4-5: A, 6-7: B.
MI_INLINE void add_square(const void* a, int64_t a_pitch, const void* b, int64_t b_pitch, int64_t steps, float* c,
                          int64_t c_pitch) {
  const char *a0 = static_cast<const char*>(a), *b0 = static_cast<const char*>(b);
  float* lower = reinterpret_cast<float*>(reinterpret_cast<char*>(c) + 16 * c_pitch);
  _tile_loadd(0, c, c_pitch);
  _tile_loadd(1, c + 16, c_pitch);
  _tile_loadd(2, lower, c_pitch);
  _tile_loadd(3, lower + 16, c_pitch);
  for (int64_t step = 0; step < steps; step++, a0 += 64, b0 += kStepPairs * b_pitch) {
    _tile_loadd(4, a0, a_pitch);
    _tile_loadd(6, b0, b_pitch);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b0 + 64, b_pitch);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a0 + 16 * a_pitch, a_pitch);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_pitch);
  _tile_stored(1, c + 16, c_pitch);
  _tile_stored(2, lower, c_pitch);
  _tile_stored(3, lower + 16, c_pitch);
}

#else

// sum[r][v] += A B over `pairs` of K, rows r of A, vectors v of B: each pair of A is taken to all lanes. Pitches in
// bytes.
template <int kRows, int kVectors>
MI_INLINE void multiply_add_pairs(Vec<float> (&sum)[kRows][kVectors], const void* a, int64_t a_pitch, const void* b,
                                  int64_t b_pitch, int64_t pairs) {
  const char *rows = static_cast<const char*>(a), *lanes = static_cast<const char*>(b);
  for (int64_t k = 0; k < pairs; k++, lanes += b_pitch) {
    __m512bh operand[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) operand[v] = (__m512bh)_mm512_loadu_si512(lanes + v * 64);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      int32_t pair;
      std::memcpy(&pair, rows + r * a_pitch + k * 4, 4);
      const __m512bh scalar = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++)
        sum[r][v] = (Vec<float>)_mm512_dpbf16_ps((__m512)sum[r][v], scalar, operand[v]);
    }
  }
}

MI_INLINE void add_square(const void* a, int64_t a_pitch, const void* b, int64_t b_pitch, int64_t steps, float* c,
                          int64_t c_pitch) {
  constexpr int kRows = 8;
  for (int64_t first = 0; first < kSquare; first += kRows) {
    char* out = reinterpret_cast<char*>(c) + first * c_pitch;
    Vec<float> sum[kRows][2];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++)
      for (int v = 0; v < 2; v++) sum[r][v] = load(reinterpret_cast<float*>(out + r * c_pitch) + v * kLanes<float>);
    multiply_add_pairs<kRows, 2>(sum, static_cast<const char*>(a) + first * a_pitch, a_pitch, b, b_pitch,
                                 steps * kStepPairs);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++)
      for (int v = 0; v < 2; v++) store(reinterpret_cast<float*>(out + r * c_pitch) + v * kLanes<float>, sum[r][v]);
  }
}

#endif

// The same into the upper left rows x columns of C only: the edge of a matrix.
MI_NOINLINE void add_part_of_square(const void* a, int64_t a_pitch, const void* b, int64_t b_pitch, int64_t steps,
                                    float* c, int64_t c_pitch, int64_t rows, int64_t columns) {
  alignas(64) float square[kSquare * kSquare] = {};
  add_square(a, a_pitch, b, b_pitch, steps, square, kSquare * sizeof(float));
  for (int64_t r = 0; r < rows; r++)
    for (int64_t k = 0; k < columns; k++)
      reinterpret_cast<float*>(reinterpret_cast<char*>(c) + r * c_pitch)[k] += square[r * kSquare + k];
}

// Two vectors rounded to bfloat16, one behind the other.
MI_INLINE __m512i both_rounded(Vec<float> low, Vec<float> high) {
  return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}

// Interleaves the halves of what both_rounded returns: lane i holds the pair (low_i, high_i).
MI_INLINE __m512i in_pairs(__m512i rounded) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, rounded);
}

}  // namespace MI_ISA
}  // namespace mi
