// A walk over all pairs in blocks that fit into the cache of a device: the scores of a block, or the weights
// G_ij = dL/ds_ij that they become, lie in memory.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

namespace mi::cuda {

template <class Scalar>
constexpr Scalar kLargest = std::numeric_limits<Scalar>::max();

struct PairBlock {
  int64_t first_row = 0, rows = 0;
  int64_t first_column = 0, columns = 0;
  void* values = nullptr;  // Scalar [rows][pitch]
  int64_t pitch = 0;
};

struct PairBlocks {
  static constexpr int64_t kUnit = 128;  // blocks start at multiples of it, so tiles do too

  int64_t n, m;
  int64_t rows = kUnit, columns;  // of a block

  // pairs: of a block, at least kUnit^2. Blocks are about square, unless there are few rows.
  PairBlocks(int64_t n, int64_t m, int64_t pairs) : n(n), m(m) {
    while (rows < n && 4 * rows * rows <= pairs) rows *= 2;
    columns = std::min(round_up(m), std::max<int64_t>(kUnit, pairs / rows / kUnit * kUnit));
    rows = std::min(rows, round_up(n));
  }
  static int64_t round_up(int64_t count) { return std::max<int64_t>(1, (count + kUnit - 1) / kUnit) * kUnit; }

  int64_t pairs() const { return rows * columns; }
  bool one() const { return n <= rows && m <= columns; }

  // Of a block in a matrix of all pairs, or in scratch that holds a block at a time.
  template <class Scalar>
  PairBlock at(int64_t row, int64_t column, Scalar* values, bool matrix) const {
    PairBlock block{row, std::min(rows, n - row), column, std::min(columns, m - column), values, columns};
    if (matrix) block.values = values + row * m + column, block.pitch = m;
    return block;
  }
  template <class Scalar, class Body>
  void each(Scalar* values, bool matrix, Body&& body) const {
    for (int64_t row = 0; row < n; row += rows)
      for (int64_t column = 0; column < m; column += columns) body(at(row, column, values, matrix));
  }
};

}  // namespace mi::cuda
