// Products of float32 matrices by the matrix unit for bfloat16: every number is the sum of three bfloat16,
//   v = v0 + v1 + v2 exactly,   |v1| <= 2^-8 |v|,   |v2| <= 2^-16 |v|,
// and of the nine products of parts the six largest are summed, in float32; the rest is at most 2^-23 |a b|, as much as
// one rounding of float32.
//
// An operand is an array of steps: 32 rows (of A) or 32 lanes (of B) by 32 of the contracted index K, as
// [3 parts][2 halves of the rows or lanes][16][16] words. A word holds K and K + 16 of a step; their order does not
// matter, as long as A and B agree. B is split beforehand, A 32 rows at a time, which never leave the nearest cache.
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

// The upper 16 bits of v, rounded: a bfloat16 as a float32.
MI_INLINE __m512 leading_part(__m512 v) {
  const __m512i bits = _mm512_add_epi32((__m512i)v, _mm512_set1_epi32(0x8000));
  return (__m512)_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
}

MI_INLINE __m512i words_of(__m512 low, __m512 high) {
  return _mm512_mask_mov_epi16((__m512i)high, 0x55555555, _mm512_srli_epi32((__m512i)low, 16));
}

// words[part]: lane by lane the pair (low, high).
MI_INLINE void split(__m512 low, __m512 high, __m512i (&words)[kParts]) {
#pragma GCC unroll 2
  for (int part = 0; part < kParts - 1; part++) {
    const __m512 leading_low = leading_part(low), leading_high = leading_part(high);
    words[part] = words_of(leading_low, leading_high);
    low -= leading_low, high -= leading_high;
  }
  words[kParts - 1] = words_of(low, high);
}

MI_INLINE void transpose(__m512i (&rows)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      rows[i + 2 * h] = _mm512_unpacklo_epi64(t[i + h], t[i + 2 + h]);
      rows[i + 2 * h + 1] = _mm512_unpackhi_epi64(t[i + h], t[i + 2 + h]);
    }
#pragma GCC unroll 2
  for (int i = 0; i < 16; i += 8)
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      t[i + k] = _mm512_shuffle_i32x4(rows[i + k], rows[i + 4 + k], 0x88);
      t[i + 4 + k] = _mm512_shuffle_i32x4(rows[i + k], rows[i + 4 + k], 0xdd);
    }
#pragma GCC unroll 8
  for (int k = 0; k < 8; k++) {
    rows[k] = _mm512_shuffle_i32x4(t[k], t[8 + k], 0x88);
    rows[8 + k] = _mm512_shuffle_i32x4(t[k], t[8 + k], 0xdd);
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
    if (row + height <= rows && column + width <= columns)
      return body([=, this](int64_t r, int64_t c) { return times * _mm512_loadu_ps(first + r * pitch + c); });
    body([=, this](int64_t r, int64_t c) { return times * load16(row + r, column + c); });
  }

  // The power of two below the largest element: divided by it, numbers lose no digits as parts, which are zero below
  // 2^-126. 1 where nothing is, or something is not finite.
  float unit() const {
    constexpr int kExponent = 0x7f800000, kHighest = 253 << 23;
    __m512i largest[2] = {};
    for (int64_t c = 0; c < columns; c += 16)
      for (int64_t r = 0; r < rows; r++) {
        const __m512 there =
            columns - c >= 16 ? _mm512_loadu_ps(data + c / kChunk * chunk + r * pitch + c % kChunk) : load16(r, c);
        largest[r % 2] = _mm512_max_epi32(largest[r % 2], (__m512i)_mm512_abs_ps(there));
      }
    const int bits = _mm512_reduce_max_epi32(_mm512_max_epi32(largest[0], largest[1])) & kExponent;
    if (bits == 0 || bits > kHighest) return 1;
    float power;
    std::memcpy(&power, &bits, sizeof(power));
    return power;
  }
};

// The parts of one tile register: word q of line r is pair(r) in lane q, or, transposed, pair(q) in lane r.
template <bool kTransposed, class Pair>
MI_INLINE void write_tiles(uint32_t* out, Pair&& pair) {
#pragma GCC unroll 4
  for (int r = 0; r < 16; r++) {
    __m512i line[kParts];
    pair(r, line);
#pragma GCC unroll 3
    for (int part = 0; part < kParts; part++) _mm512_store_si512(out + part * kPartWords + r * kStepPairs, line[part]);
  }
  if constexpr (!kTransposed) return;
  for (int part = 0; part < kParts; part++) {
    __m512i rows[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; r++) rows[r] = _mm512_load_si512(out + part * kPartWords + r * kStepPairs);
    transpose(rows);
#pragma GCC unroll 16
    for (int r = 0; r < 16; r++) _mm512_store_si512(out + part * kPartWords + r * kStepPairs, rows[r]);
  }
}

// Rows row .. row + 16 of a matrix with K along its rows: rows of A, or, transposed, lanes of B.
template <bool kTransposed>
MI_INLINE void split_rows(const FloatMatrix& m, int64_t row, int64_t step, uint32_t* tile) {
  m.from(row, step * kSquare, kHalf, kSquare, [&](auto at) {
    write_tiles<kTransposed>(tile, [&](int r, __m512i(&line)[kParts]) { split(at(r, 0), at(r, kHalf), line); });
  });
}

// Columns column .. column + 16 of a matrix with K down its columns: lanes of B, or, transposed, rows of A.
template <bool kTransposed>
MI_INLINE void split_columns(const FloatMatrix& m, int64_t column, int64_t step, uint32_t* tile) {
  m.from(step * kSquare, column, kSquare, kHalf, [&](auto at) {
    write_tiles<kTransposed>(tile, [&](int q, __m512i(&line)[kParts]) { split(at(q, 0), at(q + kHalf, 0), line); });
  });
}

// B from a matrix of which the rows, or else the columns, are its lanes.
template <bool kRows>
MI_NOINLINE void split_lanes(const FloatMatrix& m, uint32_t* out) {
  const int64_t lanes = kRows ? m.rows : m.columns, steps = squares(kRows ? m.columns : m.rows);
  const auto split = kRows ? split_rows<true> : split_columns<false>;
  for (int64_t lane = 0; lane < lanes; lane += kHalf)
    for (int64_t step = 0; step < steps; step++)
      split(m, lane, step, out + (lane / kSquare * steps + step) * kStepWords + lane % kSquare / kHalf * kTileWords);
}

// C [32][32] = A B over `steps`. Tiles 0-3: C, 4-5: a part of A, 6-7: a part of B; from one product of parts to the
// next only one of the two changes.
MI_INLINE void multiply_square(const uint32_t* a, const uint32_t* b, int64_t steps, float* c, int64_t c_pitch) {
  constexpr int64_t kLine = kStepPairs * 4;
  asm volatile("" ::: "memory");  // the loads of tiles do not say what they read
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; step++, a += kStepWords, b += kStepWords) {
    const auto take_a = [&](int part) {
      _tile_loadd(4, a + part * kPartWords, kLine);
      _tile_loadd(5, a + part * kPartWords + kTileWords, kLine);
    };
    const auto take_b = [&](int part) {
      _tile_loadd(6, b + part * kPartWords, kLine);
      _tile_loadd(7, b + part * kPartWords + kTileWords, kLine);
    };
    const auto multiply = [] {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    };
    take_a(2), take_b(0), multiply();
    take_a(1), multiply();
    take_b(1), multiply();
    take_a(0), multiply();
    take_b(0), multiply();
    take_b(2), multiply();
  }
  const int64_t pitch = c_pitch * static_cast<int64_t>(sizeof(float));
  float* lower = c + kHalf * c_pitch;
  _tile_stored(0, c, pitch);
  _tile_stored(1, c + kHalf, pitch);
  _tile_stored(2, lower, pitch);
  _tile_stored(3, lower + kHalf, pitch);
}

// C [rows][columns], at most a square of it, columns a multiple of 16: C += units A B. The sum of a square is formed by
// itself, so that the error grows with the number of sums, not of products.
MI_INLINE void add_square(const uint32_t* a, const uint32_t* b, int64_t steps, float* c, int64_t c_pitch, int64_t rows,
                          int64_t columns, const float (&units)[2]) {
  alignas(64) float square[kSquare * kSquare];
  multiply_square(a, b, steps, square, kSquare);
  for (int64_t k = 0; k < smaller(columns, kSquare); k += kLanes<float>)
    for (int64_t r = 0; r < smaller(rows, kSquare); r++) {
      float* place = c + r * c_pitch + k;
      store(place, load(place) + load(square + r * kSquare + k) * units[0] * units[1]);
    }
}

// The same with C = A B.
MI_INLINE void write_square(const uint32_t* a, const uint32_t* b, int64_t steps, float* c, int64_t c_pitch,
                            int64_t rows, int64_t columns) {
  if (rows >= kSquare && columns >= kSquare) return multiply_square(a, b, steps, c, c_pitch);
  for (int64_t r = 0; r < smaller(rows, kSquare); r++)
    std::memset(c + r * c_pitch, 0, smaller(columns, kSquare) * sizeof(float));
  add_square(a, b, steps, c, c_pitch, rows, columns, {1, 1});
}

// B, divided by `unit`; a square has `pitch` steps.
struct Lanes {
  const uint32_t* words;
  int64_t pitch;
  float unit = 1;
};

// Steps that are multiplied at a time: 32 rows of A, 24 KB, stay in the nearest cache while lanes of B pass.
constexpr int64_t kMostSteps = 4;

// C [rows][columns] = A B or, for kSums, C += A B. A [rows][K] is the matrix, or, transposed, its transpose. Numbers
// that are summed are weights and may be as small as float32 goes: 32 rows at a time are divided by their unit.
template <bool kTransposed, bool kSums>
MI_NOINLINE void multiply_parts(FloatMatrix a, const Lanes& b, float* c, int64_t c_pitch, int64_t columns) {
  const int64_t rows = kTransposed ? a.columns : a.rows, steps = squares(kTransposed ? a.rows : a.columns);
  const int64_t passes = round_up(steps, kMostSteps) / kMostSteps;
  const float unit = kSums ? a.unit() : 1;
  a.factor = 1 / unit;
  alignas(64) uint32_t left[kMostSteps * kStepWords];
  const TileRegisters registers;
  for (int64_t pass = 0; pass < passes; pass++) {
    const int64_t first = steps * pass / passes, count = steps * (pass + 1) / passes - first;
    for (int64_t r = 0; r < rows; r += kSquare) {
      for (int64_t half = 0; half < 2 && r + half * kHalf < rows; half++)
        for (int64_t step = 0; step < count; step++) {
          const auto split = kTransposed ? split_columns<true> : split_rows<false>;
          split(a, r + half * kHalf, first + step, left + step * kStepWords + half * kTileWords);
        }
      for (int64_t k = 0; k < columns; k += kSquare) {
        const uint32_t* right = b.words + (k / kSquare * b.pitch + first) * kStepWords;
        float* place = c + r * c_pitch + k;
        if (kSums || pass > 0)
          add_square(left, right, count, place, c_pitch, rows - r, columns - k, {unit, b.unit});
        else
          write_square(left, right, count, place, c_pitch, rows - r, columns - k);
      }
    }
  }
}

}  // namespace MI_ISA
}  // namespace mi
