// The two products of a gradient by products of parts: while those of a block of candidates are multiplied, the weights
// and features of the next are split.
#pragma once
#include "part-scores-inl.h"
#include "products-inl.h"

namespace mi {
namespace MI_ISA {

static_assert(kQueryBlock <= kMostSteps * kSquare && kCandidateBlock <= kMostSteps * kSquare);

template <>
struct GradientProducts<float> {
  static constexpr int64_t kGroup = 8 * kCandidateBlock;

  // Of a block of candidates, and of the next.
  uint32_t* along[2] = {nullptr, nullptr};  // E / unit, the operand A: candidates by queries
  uint32_t* down[2] = {nullptr, nullptr};   // E / unit, the operand B: candidates by queries
  SplitBlocks features;                     // y, the operand A: columns by candidates
  float* sums = nullptr;                    // [width][kQueryBlock] of the queries
  float* scaled = nullptr;                  // c x [kQueryBlock][width]
  uint32_t* weighted = nullptr;             // c x / unit, the operand B: queries by columns
  float* weighted_unit = nullptr;           // [1]

  // candidate_count: of the slot.
  void place(const DotProblem& p, bool for_candidates, int64_t candidate_count, Arena& arena) {
    const int64_t width = padded<float>(p.dim);
    features.place(p, candidate_count, operand_words(width, kCandidateBlock), arena);
    for (int i = 0; i < 2; i++) {
      along[i] = arena.take<uint32_t>(operand_words(kCandidateBlock, kQueryBlock));
      down[i] = arena.take<uint32_t>(operand_words(kQueryBlock, kCandidateBlock));
    }
    sums = arena.take<float>(round_up(width, kSquare) * kQueryBlock);
    if (!for_candidates) return;
    scaled = arena.take<float>(kQueryBlock * width);
    weighted = arena.take<uint32_t>(operand_words(width, kQueryBlock));
    weighted_unit = arena.take<float>(1);
  }

  void weigh(const QueryBlock<float>& queries, const float* coefficient) const {
    const int64_t width = queries.width, steps = squares(queries.rows);
    for (int64_t i = 0; i < queries.rows; i++)
      for (int64_t k = 0; k < width; k++) scaled[i * width + k] = coefficient[i] * queries.natural[i * width + k];
    FloatMatrix matrix{scaled, width, queries.rows, width};
    *weighted_unit = matrix.unit();
    matrix.factor = 1 / *weighted_unit;
    for (int64_t k = 0; k < round_up(width, kSquare); k += kHalf)
      for (int64_t step = 0; step < steps; step++)
        split_columns(matrix, step * kSquare, k, half_step(weighted, steps, k, step));
  }

  void add(const float* weights, bool near_one, const Candidates<float>& y, Range columns,
           const QueryBlock<float>& queries, float* query_sums, float* candidate_sums) const;
};

// What GradientProducts::add does, block by block of candidates.
struct ProductPipeline {
  const GradientProducts<float>& products;
  const float* weights;  // E [candidates][kQueryBlock]
  bool near_one;         // their unit is 1
  const Candidates<float>& y;
  Range columns;
  const QueryBlock<float>& queries;
  float* query_sums;      // [rows][width], or null
  float* candidate_sums;  // [candidates][width], or null
  int64_t width = queries.width, query_squares = squares(queries.rows);
  float unit[2] = {1, 1};  // of the weights of a block
  alignas(64) float transposed[2][kHalf * kHalf] = {};

  struct Block {
    int64_t turn, first, count;  // candidates, from `columns` on
    int64_t steps = squares(count);
  };
  int64_t blocks() const { return round_up(columns.size(), kCandidateBlock) / kCandidateBlock; }
  // Backwards: the last weights were written last, and are near.
  Block at(int64_t turn) const {
    const int64_t first = (blocks() - 1 - turn) * kCandidateBlock;
    return {turn, first, smaller(kCandidateBlock, columns.size() - first)};
  }
  uint32_t* features(const Block& b) const { return products.features.at(columns.first + b.first, b.turn); }

  // Splitting, in units: two lines of a square of weights, or a sixth of 16 columns and 32 candidates of features, of
  // which two transpose and four split.
  static constexpr int64_t kFeatureUnits = 6;
  int64_t weight_units(const Block& b) const { return b.steps * query_squares * kHalf / 2; }
  int64_t feature_units(const Block& b) const {
    const bool needed = query_sums && !products.features.are_split(columns.first + b.first);
    return needed ? squares(width) * 2 * b.steps * kFeatureUnits : 0;
  }
  int64_t units(int64_t turn) const { return turn < blocks() ? weight_units(at(turn)) + feature_units(at(turn)) : 0; }
  void split(const Block& b, int64_t number) {
    if (number < weight_units(b)) return split_weights(b, number);
    split_features(b, number - weight_units(b));
  }
  void split_weights(const Block& b, int64_t number) {
    FloatMatrix matrix{weights + b.first * kQueryBlock, kQueryBlock, b.count, queries.rows};
    if (number == 0 && !near_one) unit[b.turn % 2] = matrix.unit();
    matrix.factor = 1 / unit[b.turn % 2];
    const int64_t square = number / (kHalf / 2), row = square / query_squares, lane = square % query_squares;
    split_both(matrix, row * kSquare, lane * kSquare, number % (kHalf / 2) * 2,
               products.along[b.turn % 2] + (row * query_squares + lane) * kStepWords,
               products.down[b.turn % 2] + (lane * b.steps + row) * kStepWords);
  }
  void split_features(const Block& b, int64_t number) {
    const int64_t half = number / kFeatureUnits, part = number % kFeatureUnits, column = half / b.steps * kHalf,
                  step = half % b.steps;
    if (part < 2)
      return transpose_square(matrix_of(y, columns.first + b.first, b.count, width), step * kSquare + part * kHalf,
                              column, transposed[part]);
    const int64_t line = (part - 2) * 4;
    split_squares<4>(transposed[0] + line * kHalf, transposed[1] + line * kHalf,
                     half_step(features(b), b.steps, column, step) + line * kStepPairs);
  }

  int64_t ticks(const Block& b) const {
    const int64_t each = query_squares * squares(width) * b.steps * kPairsOfParts;
    return (query_sums ? each : 0) + (candidate_sums ? each : 0);
  }
  template <class Work>
  MI_NOINLINE void multiply(const ProductPipeline& self, const Block& b, Work& work) {
    const float unit = self.unit[b.turn % 2];
    if (self.candidate_sums)
      add_products(self.products.along[b.turn % 2], self.products.weighted, self.query_squares,
                   unit * *self.products.weighted_unit, self.candidate_sums + b.first * self.width, self.width, b.count,
                   self.width, work);
    if (self.query_sums)
      add_products(self.features(b), self.products.down[b.turn % 2], b.steps, unit, self.products.sums, kQueryBlock,
                   round_up(self.width, kSquare), self.query_squares * kSquare, work);
    work.finish();
  }

  void run() {
    const TileRegisters registers;
    if (query_sums) {
      products.features.begin(columns.first);
      std::memset(products.sums, 0, round_up(width, kSquare) * kQueryBlock * sizeof(float));
    }
    for (int64_t unit = 0; unit < units(0); unit++) split(at(0), unit);
    for (int64_t turn = 0; turn < blocks(); turn++) {
      const Block next = at(turn + 1);
      Meanwhile work(units(turn + 1), ticks(at(turn)), [&](int64_t unit) { split(next, unit); });
      multiply(*this, at(turn), work);
    }
    if (query_sums) add_transposed(), products.features.end(columns.last);
  }

  // query_sums += sums^T.
  void add_transposed() const {
    for (int64_t i = 0; i < queries.rows; i += kHalf)
      for (int64_t k = 0; k < width; k += kHalf) {
        __m512 square[16];
#pragma GCC unroll 16
        for (int r = 0; r < kHalf; r++) square[r] = _mm512_load_ps(products.sums + (k + r) * kQueryBlock + i);
        transpose(square);
        for (int64_t r = 0; r < smaller(kHalf, queries.rows - i); r++) {
          float* place = query_sums + (i + r) * width + k;
          store(place, load(place) + (Vec<float>)square[r]);
        }
      }
  }
};

inline void GradientProducts<float>::add(const float* weights, bool near_one, const Candidates<float>& y, Range columns,
                                         const QueryBlock<float>& queries, float* query_sums,
                                         float* candidate_sums) const {
  if (queries.rows > 0)
    ProductPipeline{*this, weights, near_one, y, columns, queries, query_sums, candidate_sums}.run();
}

}  // namespace MI_ISA
}  // namespace mi
