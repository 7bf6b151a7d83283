// Products of parts, square by square, while the vector units do something else. A multiplication keeps the matrix unit
// busy for many cycles, in which a core does what stands next to it; it does not look far ahead.
#pragma once
#include "parts-inl.h"

namespace mi {
namespace MI_ISA {

// Work of `units` that goes on beside `ticks` multiplications, evenly.
template <class Unit>
class Meanwhile {
 public:
  Meanwhile(int64_t units, int64_t ticks, Unit unit) : units_(units), ticks_(ticks), unit_(unit) {}

  void tick() {
    elapsed_++;
    while (done_ * ticks_ < elapsed_ * units_) unit_(done_++);
  }
  // What no multiplication was left for.
  void finish() {
    while (done_ < units_) unit_(done_++);
  }

 private:
  int64_t units_, ticks_;
  Unit unit_;
  int64_t done_ = 0, elapsed_ = 0;
};

// Pairs of parts that are multiplied: ticks of a square and step.
constexpr int64_t kPairsOfParts = 6;
// Steps in one sum: the error grows with the sums, not with the products.
constexpr int64_t kMostSteps = 6;

// C [32][32] = A B over `steps`. Tiles 0-3: C, 4-5: a part of A, 6-7: a part of B; from one product of parts to the
// next only one of the two changes.
template <class Work>
MI_INLINE void multiply_square(const uint32_t* a, const uint32_t* b, int64_t steps, float* c, int64_t c_pitch,
                               Work& work) {
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
    const auto multiply = [&] {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      work.tick();
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

// A square that is to be added to the upper left rows x columns of C, columns a multiple of 16: C += factor square.
struct SquareSum {
  const float* square = nullptr;
  float* c = nullptr;
  int64_t pitch = 0, rows = 0, columns = 0;

  SquareSum() = default;
  SquareSum(const float* from, float* to, int64_t to_pitch, int64_t row_count, int64_t column_count)
      : square(from),
        c(to),
        pitch(to_pitch),
        rows(smaller(row_count, kSquare)),
        columns(smaller(column_count, kSquare)) {}

  inline __attribute__((always_inline)) void add(int64_t first, int64_t last, float factor) const {
    for (int64_t r = first; r < smaller(last, rows); r++)
      for (int64_t k = 0; k < columns; k += kLanes<float>) {
        float* place = c + r * pitch + k;
        store(place, load(place) + load(square + r * kSquare + k) * factor);
      }
  }
};

// Adds the square before while the next is multiplied.
template <class Work>
class Adding {
 public:
  Adding(float factor, int64_t steps, Work& work)
      : factor_(factor), rows_a_tick_((kSquare + steps * kPairsOfParts - 1) / (steps * kPairsOfParts)), work_(work) {}

  float* next() { return squares_[number_++ % 2]; }
  void begin(const SquareSum& sum) { before_ = now_, now_ = sum, row_ = 0; }
  void tick() {
    const int64_t last = row_ + rows_a_tick_;
    before_.add(row_, last, factor_);
    row_ = last;
    work_.tick();
  }
  void finish() { now_.add(0, kSquare, factor_); }

 private:
  alignas(64) float squares_[2][kSquare * kSquare];
  float factor_;
  int64_t rows_a_tick_;
  Work& work_;
  SquareSum before_, now_;
  int64_t row_ = 0, number_ = 0;
};

// C [rows][columns] of whole squares = A B.
template <class Work>
MI_INLINE void write_products(const uint32_t* a, const uint32_t* b, int64_t steps, float* c, int64_t c_pitch,
                              int64_t rows, int64_t columns, Work& work) {
  alignas(64) float square[kSquare * kSquare];
  for (int64_t r = 0; r < rows; r += kSquare, a += steps * kStepWords)
    for (int64_t k = 0; k < columns; k += kSquare) {
      const uint32_t* lanes = b + k / kSquare * steps * kStepWords;
      float* place = c + r * c_pitch + k;
      multiply_square(a, lanes, smaller(steps, kMostSteps), place, c_pitch, work);
      for (int64_t first = kMostSteps; first < steps; first += kMostSteps) {
        const int64_t at = first * kStepWords;
        multiply_square(a + at, lanes + at, smaller(steps - first, kMostSteps), square, kSquare, work);
        SquareSum(square, place, c_pitch, kSquare, kSquare).add(0, kSquare, 1);
      }
    }
}

// C [rows][columns] += factor A B, at most kMostSteps, columns a multiple of 16.
template <class Work>
MI_INLINE void add_products(const uint32_t* a, const uint32_t* b, int64_t steps, float factor, float* c,
                            int64_t c_pitch, int64_t rows, int64_t columns, Work& work) {
  Adding<Work> adding(factor, steps, work);
  for (int64_t r = 0; r < rows; r += kSquare, a += steps * kStepWords)
    for (int64_t k = 0; k < columns; k += kSquare) {
      float* square = adding.next();
      adding.begin({square, c + r * c_pitch + k, c_pitch, rows - r, columns - k});
      multiply_square(a, b + k / kSquare * steps * kStepWords, steps, square, kSquare, adding);
    }
  adding.finish();
}

}  // namespace MI_ISA
}  // namespace mi
