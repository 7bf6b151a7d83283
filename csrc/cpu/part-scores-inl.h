// Tiles of scores by products of parts: those of kCandidateBlock candidates with the whole block of queries are
// multiplied together, and the tiles read them while the next ones are multiplied.
#pragma once
#include "part-blocks-inl.h"
#include "part-squares-inl.h"
#include "scores-inl.h"

namespace mi {
namespace MI_ISA {

static_assert(kQueryBlock % kSquare == 0 && kCandidateBlock % kSquare == 0 && kCandidateBlock % kRowsHigh == 0);

template <>
struct TransposedQueries<float> {
  uint32_t* lanes = nullptr;              // scale log2 e x, the operand B: d by queries
  SplitBlocks rows;                       // y, the operand A: candidates by d
  float* scores[2] = {nullptr, nullptr};  // [kCandidateBlock][kQueryBlock] of a block, and of the next
  float* scaled = nullptr;                // [kQueryBlock][width]
  int64_t width = 0;                      // padded d

  // candidate_count: of the slot.
  void place(const DotProblem& p, int64_t candidate_count, Arena& arena) {
    width = padded<float>(p.dim);
    lanes = arena.take<uint32_t>(operand_words(kQueryBlock, width));
    rows.place(p, candidate_count, operand_words(kCandidateBlock, width), arena);
    for (float*& block : scores) block = arena.take<float>(kCandidateBlock * kQueryBlock);
    scaled = arena.take<float>(kQueryBlock * width);
  }

  void fill(const DotProblem& p, const QueryBlock<float>& queries) const {
    const double factor = p.scale * kLog2E;
    for (int64_t k = 0; k < queries.rows * width; k++) scaled[k] = static_cast<float>(queries.natural[k] * factor);
    const FloatMatrix matrix{scaled, width, queries.rows, width};
    alignas(64) float transposed[2][kHalf * kHalf];
    for (int64_t i = 0; i < round_up(queries.rows, kSquare); i += kHalf)
      for (int64_t step = 0; step < squares(width); step++) {
        for (int high = 0; high < 2; high++)
          transpose_square(matrix, i, step * kSquare + high * kHalf, transposed[high]);
        split_squares(transposed[0], transposed[1], half_step(lanes, squares(width), i, step));
      }
  }
};

// Candidates first .. first + count.
MI_INLINE FloatMatrix matrix_of(const Candidates<float>& y, int64_t first, int64_t count, int64_t width) {
  return {y.data + first * y.pitch, y.pitch, count, width, y.chunk};
}

template <>
struct BlockScores<float> {
  using Scalar = float;

  int64_t dim;
  const Candidates<float>& candidates;
  const TransposedQueries<float>& transposed;
  TileExclusions<float> exclusions;
  mutable const float* block = nullptr;  // the scores that tiles read
  mutable int64_t first = 0;             // their first candidate

  int64_t vectors() const { return exclusions.queries.vectors; }
  template <class Body>
  void for_sides(Body&& body) const {
    body(*this);
  }

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) Tile<float, kRows, kVectors> tile(int64_t j, int64_t first_vector) const {
    const int64_t lane = first_vector * kLanes<float>;
    const float* scores = block + (j - first) * kQueryBlock + lane;
    Tile<float, kRows, kVectors> s;
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) s.at[r][v] = load(scores + r * kQueryBlock + v * kLanes<float>);
    exclusions.apply(s, j, lane);
    return s;
  }
};

// The scores of candidates first .. last, a block after another: while one is multiplied, the one before is visited
// and the features of the one after are split.
template <class Scores>
struct ScorePipeline {
  const Scores& scores;
  const Candidates<float>& candidates;
  const TransposedQueries<float>& buffers;  // whose rows are used
  int64_t first, last;
  int64_t steps = squares(buffers.width);

  int64_t blocks() const { return round_up(last - first, kCandidateBlock) / kCandidateBlock; }
  int64_t begin(int64_t block) const { return first + block * kCandidateBlock; }
  int64_t count(int64_t block) const { return begin(block) < last ? smaller(kCandidateBlock, last - begin(block)) : 0; }

  static constexpr int kLines = 4;  // rows that are split at a time
  int64_t splits(int64_t block) const {
    return buffers.rows.are_split(begin(block)) ? 0 : squares(count(block)) * (kSquare / kLines) * steps;
  }
  void split(int64_t block, int64_t number) const {
    const int64_t row = number / steps * kLines, step = number % steps;
    split_rows<kLines>(matrix_of(candidates, begin(block), count(block), buffers.width), row, step * kSquare,
                       half_step(buffers.rows.at(begin(block), block), steps, row, step) + row % kHalf * kStepPairs);
  }

  int64_t ticks(int64_t block) const {
    int64_t lanes = 0;
    scores.for_sides([&](const BlockScores<float>& side) { lanes += squares(side.vectors() * kLanes<float>); });
    return squares(count(block)) * lanes * steps * kPairsOfParts;
  }
  template <class Work>
  MI_NOINLINE void multiply(const ScorePipeline& self, int64_t block, Work& work) {
    self.scores.for_sides([&](const BlockScores<float>& side) {
      write_products(self.buffers.rows.at(self.begin(block), block), side.transposed.lanes, self.steps,
                     side.transposed.scores[block % 2], kQueryBlock, self.count(block), side.vectors() * kLanes<float>,
                     work);
    });
    work.finish();
  }

  void show(int64_t block) const {
    scores.for_sides([&](const BlockScores<float>& side) {
      side.block = side.transposed.scores[block % 2];
      side.first = begin(block);
    });
  }
};

// Tiles of kRowsHigh rows in a block.
constexpr int64_t kRowTiles = kCandidateBlock / kRowsHigh;

template <>
struct ScoreTiles<float> {
  template <class Scores, class Visitor, class AfterBlock>
  static void visit(const Scores& scores, int64_t first, int64_t last, Visitor&& visitor, AfterBlock&& after_block) {
    const BlockScores<float>* side = nullptr;
    scores.for_sides([&](const BlockScores<float>& one) { side = &one; });
    const ScorePipeline<Scores> pipeline{scores, side->candidates, side->transposed, first, last};
    const int64_t vectors = scores.vectors();
    if (vectors == 0) return;
    const TileRegisters registers;
    side->transposed.rows.begin(first);
    const int64_t blocks = pipeline.blocks();
    for (int64_t number = 0; number < pipeline.splits(0); number++) pipeline.split(0, number);
    for (int64_t block = -1; block < blocks; block++) {
      const int64_t j = pipeline.begin(block), splits = pipeline.splits(block + 2);
      const bool whole = block >= 0 && block + 1 < blocks;
      const int64_t tiles = whole ? vectors * kRowTiles : 0;
      Meanwhile work(tiles + splits, pipeline.ticks(block + 1), [&](int64_t unit) {
        if (unit >= tiles) return pipeline.split(block + 2, unit - tiles);
        visitor(Constant<kRowsHigh>{}, Constant<1>{}, j + unit % kRowTiles * kRowsHigh, unit / kRowTiles);
      });
      if (block >= 0) pipeline.show(block);
      pipeline.multiply(pipeline, block + 1, work);
      if (block >= 0 && !whole)
        for_vector_tiles(vectors, [&](auto width, int64_t vector) {
          for_row_tiles(pipeline.count(block), [&](auto rows, int64_t row) { visitor(rows, width, j + row, vector); });
        });
      if (block >= 0) after_block(j + pipeline.count(block));
    }
    side->transposed.rows.end(last);
  }
};

}  // namespace MI_ISA
}  // namespace mi
