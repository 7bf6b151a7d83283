// Parts of float32 numbers for the matrix unit for bfloat16: every number is the sum of three bfloat16,
//   v = v0 + v1 + v2 exactly,   |v1| <= 2^-8 |v|,   |v2| <= 2^-16 |v|,
// and of the nine products of parts the six largest are summed, in float32; the rest is at most 2^-23 |a b|, as much as
// one rounding of float32.
//
// An operand is an array of steps: 32 rows (of A) or 32 lanes (of B) by 32 of the contracted index K, as
// [3 parts][2 halves of the rows or lanes][16][16] words. A word holds K and K + 16 of a step; their order does not
// matter, as long as A and B agree.
#pragma once
#include "features-inl.h"
#include "tile-registers-inl.h"

namespace mi {
namespace MI_ISA {

constexpr int kParts = 3;
constexpr int64_t kHalf = kSquare / 2;               // rows or lanes of a tile register
constexpr int64_t kTileWords = kHalf * kStepPairs;   // of one tile register
constexpr int64_t kPartWords = 2 * kTileWords;       // of one part of a step
constexpr int64_t kStepWords = kParts * kPartWords;  // of a step

MI_INLINE int64_t squares(int64_t count) { return (count + kSquare - 1) / kSquare; }

// Words of an operand: `count` rows or lanes, `depth` of K.
MI_INLINE int64_t operand_words(int64_t count, int64_t depth) { return squares(count) * squares(depth) * kStepWords; }

// The first part's tile register with row or lane `line` of `step`, where a square has `steps` of them.
MI_INLINE uint32_t* half_step(uint32_t* operand, int64_t steps, int64_t line, int64_t step) {
  return operand + (line / kSquare * steps + step) * kStepWords + line % kSquare / kHalf * kTileWords;
}

// The upper 16 bits of v, rounded: a bfloat16 as a float32.
MI_INLINE __m512 leading_part(__m512 v) {
  const __m512i bits = _mm512_add_epi32((__m512i)v, _mm512_set1_epi32(0x8000));
  return (__m512)_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
}

// The upper halves of `low` in the lower halves of words, those of `high` in the upper halves.
MI_INLINE __m512i words_of(__m512 low, __m512 high) {
  constexpr __mmask64 kLowerHalves = 0x3333333333333333;
  return _mm512_mask_alignr_epi8((__m512i)high, kLowerHalves, (__m512i)low, (__m512i)low, 2);
}

// Calls write(part, leading parts) for each part of `numbers`.
template <int kCount, class Write>
MI_INLINE void for_parts(__m512 (&numbers)[kCount], Write&& write) {
#pragma GCC unroll 3
  for (int part = 0; part < kParts; part++) {
    __m512 leading[kCount];
#pragma GCC unroll 4
    for (int i = 0; i < kCount; i++) {
      leading[i] = part < kParts - 1 ? leading_part(numbers[i]) : numbers[i];
      numbers[i] -= leading[i];
    }
    write(part, leading);
  }
}

// The line of each part's tile register that holds, lane by lane, the pair (low, high).
MI_INLINE void split_pair(__m512 low, __m512 high, uint32_t* line) {
  __m512 pair[2] = {low, high};
  for_parts(pair, [&](int part, const __m512(&leading)[2]) {
    _mm512_store_si512(line + part * kPartWords, words_of(leading[0], leading[1]));
  });
}

MI_INLINE void transpose(__m512 (&v)[16]) {
  __m512 t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      v[i + 2 * h] = (__m512)_mm512_unpacklo_pd((__m512d)t[i + h], (__m512d)t[i + 2 + h]);
      v[i + 2 * h + 1] = (__m512)_mm512_unpackhi_pd((__m512d)t[i + h], (__m512d)t[i + 2 + h]);
    }
#pragma GCC unroll 2
  for (int i = 0; i < 16; i += 8)
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      t[i + k] = _mm512_shuffle_f32x4(v[i + k], v[i + 4 + k], 0x88);
      t[i + 4 + k] = _mm512_shuffle_f32x4(v[i + k], v[i + 4 + k], 0xdd);
    }
#pragma GCC unroll 8
  for (int k = 0; k < 8; k++) {
    v[k] = _mm512_shuffle_f32x4(t[k], t[8 + k], 0x88);
    v[8 + k] = _mm512_shuffle_f32x4(t[k], t[8 + k], 0xdd);
  }
}

// Element (r, c) at data + (c / 64) chunk + r pitch + c % 64, times a factor; 0 beyond rows and columns.
struct FloatMatrix {
  const float* data;
  int64_t pitch;
  int64_t rows, columns;
  int64_t chunk = kChunk;
  float factor = 1;

  // 16 elements from (r, c) on, c a multiple of 16, before the factor.
  inline __attribute__((always_inline)) __m512 load16(int64_t r, int64_t c) const {
    const int64_t left = r < rows ? columns - c : 0;
    const unsigned there = left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(there), data + c / kChunk * chunk + r * pitch + c % kChunk);
  }

  // Calls body(at), at(r, c) being the 16 elements from (row + r, column + c) on, r < height, c < width.
  template <class Body>
  inline __attribute__((always_inline)) void from(int64_t row, int64_t column, int64_t height, int64_t width,
                                                  Body&& body) const {
    const float* first = data + column / kChunk * chunk + row * pitch + column % kChunk;
    const __m512 times = _mm512_set1_ps(factor);
    const bool whole = row + height <= rows && column + width <= columns;
    if (whole && factor == 1)
      return body([=, this](int64_t r, int64_t c) { return _mm512_loadu_ps(first + r * pitch + c); });
    if (whole) return body([=, this](int64_t r, int64_t c) { return times * _mm512_loadu_ps(first + r * pitch + c); });
    body([=, this](int64_t r, int64_t c) { return times * load16(row + r, column + c); });
  }

  // The power of two below the largest element: divided by it, numbers lose no digits as parts, which are zero below
  // 2^-126. 1 where nothing is, or something is not finite.
  float unit() const {
    constexpr int kExponent = 0x7f800000, kHighest = 253 << 23;
    __m512i largest = {};
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < columns; c += 16) {
        const __m512 there =
            columns - c >= 16 ? _mm512_loadu_ps(data + c / kChunk * chunk + r * pitch + c % kChunk) : load16(r, c);
        largest = _mm512_max_epi32(largest, (__m512i)_mm512_abs_ps(there));
      }
    const int bits = _mm512_reduce_max_epi32(largest) & kExponent;
    if (bits == 0 || bits > kHighest) return 1;
    float power;
    std::memcpy(&power, &bits, sizeof(power));
    return power;
  }
};

// Half a step, 16 rows of A or lanes of B, from 16 rows of a matrix and 32 columns, K along the rows.
template <int kLines = kHalf>
MI_NOINLINE void split_rows(const FloatMatrix& m, int64_t row, int64_t column, uint32_t* tile) {
  m.from(row, column, kLines, kSquare, [&](auto at) {
#pragma GCC unroll 4
    for (int r = 0; r < kLines; r++) split_pair(at(r, 0), at(r, kHalf), tile + r * kStepPairs);
  });
}

// From 32 rows and 16 columns, K down the columns.
MI_NOINLINE void split_columns(const FloatMatrix& m, int64_t row, int64_t column, uint32_t* tile) {
  m.from(row, column, kSquare, kHalf, [&](auto at) {
    for (int q = 0; q < kHalf; q++) split_pair(at(q, 0), at(q + kHalf, 0), tile + q * kStepPairs);
  });
}

// 16 rows and columns, transposed: [16][16].
MI_NOINLINE void transpose_square(const FloatMatrix& m, int64_t row, int64_t column, float* out) {
  m.from(row, column, kHalf, kHalf, [&](auto at) {
    __m512 square[16];
#pragma GCC unroll 16
    for (int r = 0; r < kHalf; r++) square[r] = at(r, 0);
    transpose(square);
#pragma GCC unroll 16
    for (int r = 0; r < kHalf; r++) _mm512_store_ps(out + r * kHalf, square[r]);
  });
}

// Half a step from two transposed squares, K and K + 16.
template <int kLines = kHalf>
MI_NOINLINE void split_squares(const float* low, const float* high, uint32_t* tile) {
#pragma GCC unroll 4
  for (int r = 0; r < kLines; r++)
    split_pair(_mm512_load_ps(low + r * kHalf), _mm512_load_ps(high + r * kHalf), tile + r * kStepPairs);
}

// Two of the 16 lines of the square at (row, column), both as a step of A, K along its rows, and as a step of B, K down
// its columns.
MI_NOINLINE void split_both(const FloatMatrix& m, int64_t row, int64_t column, int64_t line, uint32_t* along,
                            uint32_t* down) {
  m.from(row, column, kSquare, kSquare, [&](auto at) {
#pragma GCC unroll 2
    for (int64_t q = line; q < line + 2; q++) {
      __m512 numbers[4] = {at(q, 0), at(q, kHalf), at(q + kHalf, 0), at(q + kHalf, kHalf)};
      for_parts(numbers, [&](int part, const __m512(&v)[4]) {
        const int64_t at_line = part * kPartWords + q * kStepPairs;
        _mm512_store_si512(along + at_line, words_of(v[0], v[1]));
        _mm512_store_si512(along + at_line + kTileWords, words_of(v[2], v[3]));
        _mm512_store_si512(down + at_line, words_of(v[0], v[2]));
        _mm512_store_si512(down + at_line + kTileWords, words_of(v[1], v[3]));
      });
    }
  });
}

}  // namespace MI_ISA
}  // namespace mi
