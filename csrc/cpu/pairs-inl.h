// Products of bfloat16 pairs with float32 sums: 32 x 32 blocks of C += A B, by AMX tiles or by dpbf16ps.
//   A [32][2 steps * 16]: rows of bfloat16, neighbours in K adjacent;  B [16 steps][32]: pairs of neighbours in K, one
//   a lane.
#pragma once
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

MI_INLINE void add_square(const void* a, int64_t a_pitch, const void* b, int64_t b_pitch, int64_t steps, float* c,
                          int64_t c_pitch) {
  constexpr int kRows = 8;
  for (int64_t first = 0; first < kSquare; first += kRows) {
    const char* rows = static_cast<const char*>(a) + first * a_pitch;
    char* out = reinterpret_cast<char*>(c) + first * c_pitch;
    __m512 sum[kRows][2];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++)
      for (int v = 0; v < 2; v++) sum[r][v] = _mm512_loadu_ps(out + r * c_pitch + v * 64);
    for (int64_t k = 0; k < steps * kStepPairs; k++) {
      const char* pairs = static_cast<const char*>(b) + k * b_pitch;
      const __m512bh b0 = (__m512bh)_mm512_loadu_si512(pairs), b1 = (__m512bh)_mm512_loadu_si512(pairs + 64);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; r++) {
        int32_t pair;
        std::memcpy(&pair, rows + r * a_pitch + k * 4, 4);
        const __m512bh scalar = (__m512bh)_mm512_set1_epi32(pair);
        sum[r][0] = _mm512_dpbf16_ps(sum[r][0], scalar, b0);
        sum[r][1] = _mm512_dpbf16_ps(sum[r][1], scalar, b1);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++)
      for (int v = 0; v < 2; v++) _mm512_storeu_ps(out + r * c_pitch + v * 64, sum[r][v]);
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

// Two vectors rounded to bfloat16: lane i holds the pair (low_i, high_i).
MI_INLINE __m512i paired(__m512 low, __m512 high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

MI_INLINE uint16_t rounded_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace MI_ISA
}  // namespace mi
