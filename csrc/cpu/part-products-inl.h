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
  static constexpr int64_t kColumns = 8 * kSquare;  // of y that are split together
  // Features stay split where they take no more bytes than this, for so many blocks of queries.
  static constexpr int64_t kMostKept = int64_t{4} << 20, kBlocksThatKeep = 4;

  // Of a block of candidates, and of the next.
  uint32_t* along[2] = {nullptr, nullptr};     // E / unit, the operand A: candidates by queries
  uint32_t* down[2] = {nullptr, nullptr};      // E / unit, the operand B: candidates by queries
  uint32_t* features[2] = {nullptr, nullptr};  // y, the operand A: columns by candidates
  uint32_t* kept = nullptr;                    // or those of all blocks
  mutable Range split = {0, 0};                // the candidates whose features are kept
  float* sums = nullptr;                       // [width][kQueryBlock] of the queries
  float* scaled = nullptr;                     // c x [kQueryBlock][width]
  uint32_t* weighted = nullptr;                // c x / unit, the operand B: queries by columns
  float* weighted_unit = nullptr;              // [1]

  // candidate_count: of the slot.
  void place(const DotProblem& p, bool for_candidates, int64_t candidate_count, Arena& arena) {
    const int64_t width = padded<float>(p.dim), words = operand_words(round_up(candidate_count, kCandidateBlock), width);
    const bool keep = words * 4 <= kMostKept && p.n() >= kBlocksThatKeep * kQueryBlock && width <= kColumns;
    if (keep) kept = arena.take<uint32_t>(words);
    for (int i = 0; i < 2; i++) {
      along[i] = arena.take<uint32_t>(operand_words(kCandidateBlock, kQueryBlock));
      down[i] = arena.take<uint32_t>(operand_words(kQueryBlock, kCandidateBlock));
      if (!keep) features[i] = arena.take<uint32_t>(operand_words(smaller(kColumns, width), kCandidateBlock));
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
        split_columns(matrix, step * kSquare, k,
                      weighted + (k / kSquare * steps + step) * kStepWords + k % kSquare / kHalf * kTileWords);
  }

  void add(const float* weights, bool near_one, const Candidates<float>& y, Range columns,
           const QueryBlock<float>& queries, float* query_sums, float* candidate_sums) const;
};

// What GradientProducts::add does, in stages: a block of candidates and up to kColumns columns of d each.
struct ProductPipeline {
  using Products = GradientProducts<float>;
  const Products& products;
  const float* weights;  // E [candidates][kQueryBlock]
  bool near_one;         // their unit is 1
  const Candidates<float>& y;
  Range columns;
  const QueryBlock<float>& queries;
  float* query_sums;      // [rows][width], or null
  float* candidate_sums;  // [candidates][width], or null
  int64_t width = queries.width, parts = round_up(width, Products::kColumns) / Products::kColumns;
  int64_t query_squares = squares(queries.rows);
  bool are_split = products.kept && products.split.last >= columns.last;  // the features
  float unit[2] = {1, 1};  // of the weights of a block
  alignas(64) float transposed[2][kHalf * kHalf] = {};

  struct Stage {
    int64_t block, first, count;  // candidates, from `columns` on
    int64_t k, columns;           // of d
    bool begins;                  // a block
  };
  int64_t stages() const { return round_up(columns.size(), kCandidateBlock) / kCandidateBlock * parts; }
  Stage at(int64_t stage) const {
    // Backwards: the last weights were written last, and are near.
    const int64_t block = stages() / parts - 1 - stage / parts, first = block * kCandidateBlock,
                  k = stage % parts * Products::kColumns;
    return {block, first, smaller(kCandidateBlock, columns.size() - first), k, smaller(Products::kColumns, width - k),
            k == 0};
  }

  // Splitting, in units: two lines of a square of weights, or a sixth of 16 columns and 32 candidates of features, of
  // which two transpose and four split.
  static constexpr int64_t kFeatureUnits = 6;
  int64_t weight_units(const Stage& s) const { return s.begins ? squares(s.count) * query_squares * kHalf / 2 : 0; }
  int64_t feature_units(const Stage& s) const {
    return query_sums && !are_split ? squares(s.columns) * 2 * squares(s.count) * kFeatureUnits : 0;
  }
  uint32_t* features(int64_t stage) const {
    const int64_t block = (columns.first - products.split.first) / kCandidateBlock + at(stage).block;
    return products.kept ? products.kept + block * operand_words(width, kCandidateBlock) : products.features[stage % 2];
  }
  int64_t units(int64_t stage) const {
    return stage < stages() ? weight_units(at(stage)) + feature_units(at(stage)) : 0;
  }
  void split(int64_t stage, int64_t number) {
    const Stage s = at(stage);
    if (number < weight_units(s)) return split_weights(s, number);
    split_features(s, stage, number - weight_units(s));
  }
  void split_weights(const Stage& s, int64_t number) {
    FloatMatrix matrix{weights + s.first * kQueryBlock, kQueryBlock, s.count, queries.rows};
    if (number == 0 && !near_one) unit[s.block % 2] = matrix.unit();
    matrix.factor = 1 / unit[s.block % 2];
    const int64_t square = number / (kHalf / 2), row = square / query_squares, lane = square % query_squares;
    split_both(matrix, row * kSquare, lane * kSquare, number % (kHalf / 2) * 2,
               products.along[s.block % 2] + (row * query_squares + lane) * kStepWords,
               products.down[s.block % 2] + (lane * squares(s.count) + row) * kStepWords);
  }
  void split_features(const Stage& s, int64_t stage, int64_t number) {
    const int64_t steps = squares(s.count), half = number / kFeatureUnits, part = number % kFeatureUnits,
                  column = half / steps * kHalf, step = half % steps;
    if (part < 2)
      return transpose_square(matrix_of(y, columns.first + s.first, s.count, s.k, s.columns),
                              step * kSquare + part * kHalf, column, transposed[part]);
    const int64_t line = (part - 2) * 4;
    split_squares<4>(transposed[0] + line * kHalf, transposed[1] + line * kHalf,
                     features(stage) + (column / kSquare * steps + step) * kStepWords +
                         column % kSquare / kHalf * kTileWords + line * kStepPairs);
  }

  int64_t ticks(const Stage& s) const {
    const int64_t each = query_squares * squares(s.columns) * squares(s.count) * kPairsOfParts;
    return (query_sums ? each : 0) + (candidate_sums ? each : 0);
  }
  template <class Work>
  MI_NOINLINE void multiply(const ProductPipeline& self, int64_t stage, Work& work) {
    const Stage s = self.at(stage);
    const float unit = self.unit[s.block % 2];
    if (self.candidate_sums)
      add_products(self.products.along[s.block % 2],
                   self.products.weighted + s.k / kSquare * self.query_squares * kStepWords, self.query_squares,
                   unit * *self.products.weighted_unit, self.candidate_sums + s.first * self.width + s.k, self.width,
                   s.count, s.columns, work);
    if (self.query_sums)
      add_products(self.features(stage), self.products.down[s.block % 2], squares(s.count), unit,
                   self.products.sums + s.k * kQueryBlock, kQueryBlock, round_up(s.columns, kSquare),
                   self.query_squares * kSquare, work);
    work.finish();
  }

  void run() {
    const TileRegisters registers;
    if (products.split.last == 0) products.split = {columns.first, columns.first};
    if (query_sums) std::memset(products.sums, 0, round_up(width, kSquare) * kQueryBlock * sizeof(float));
    for (int64_t unit = 0; unit < units(0); unit++) split(0, unit);
    for (int64_t stage = 0; stage < stages(); stage++) {
      Meanwhile work(units(stage + 1), ticks(at(stage)), [&](int64_t unit) { split(stage + 1, unit); });
      multiply(*this, stage, work);
    }
    if (query_sums) add_transposed(), products.split.last = columns.last;
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
  if (queries.rows > 0) ProductPipeline{*this, weights, near_one, y, columns, queries, query_sums, candidate_sums}.run();
}

}  // namespace MI_ISA
}  // namespace mi
