// The two products of a gradient, from weights E [candidates][kQueryBlock]:
//   for queries     sum_j E_ji y_j,   for candidates  sum_i E_ji (c_i x_i).
#pragma once
#include "exponential-inl.h"

namespace mi {
namespace MI_ISA {

// sums [rows][width] += E^T y over candidates first .. first + count.
template <class T>
MI_INLINE void add_query_products(const T* weights, const Candidates<T>& y, int64_t first, int64_t count,
                                  const QueryBlock<T>& queries, T* sums) {
  const int64_t width = queries.width;
  for (int64_t c = 0; c * kChunk < width; c++) {
    const T* chunk = y.data + c * y.chunk + first * y.pitch;
    for_vector_tiles(smaller(kChunk, width - c * kChunk) / kLanes<T>, [&](auto vectors, int64_t vector) {
      for_row_tiles(queries.rows, [&](auto rows, int64_t i) {
        multiply_add_tile<T, rows(), vectors()>(weights + i, 1, kQueryBlock, chunk + vector * kLanes<T>, y.pitch, count,
                                                sums + i * width + c * kChunk + vector * kLanes<T>, width);
      });
    });
  }
}

// c_i x_i in chunks of kChunk columns: [chunk][kQueryBlock][kChunk].
template <class T>
MI_INLINE void weigh_queries(const QueryBlock<T>& queries, const T* coefficient, T* weighted) {
  for (int64_t c = 0; c * kChunk < queries.width; c++)
    for (int64_t i = 0; i < queries.rows; i++)
      for (int64_t k = 0; k < smaller(kChunk, queries.width - c * kChunk); k++)
        weighted[(c * kQueryBlock + i) * kChunk + k] =
            coefficient[i] * queries.natural[i * queries.width + c * kChunk + k];
}

// sums [candidates][pitch] += E (c x); the first row of weights and sums belongs to the same candidate.
template <class T>
MI_INLINE void add_candidate_products(const T* weights, const T* weighted, int64_t count, const QueryBlock<T>& queries,
                                      T* sums, int64_t pitch) {
  for (int64_t c = 0; c * kChunk < queries.width; c++)
    for_vector_tiles(smaller(kChunk, queries.width - c * kChunk) / kLanes<T>, [&](auto vectors, int64_t vector) {
      const int64_t column = vector * kLanes<T>;
      for_row_tiles(count, [&](auto rows, int64_t j) {
        multiply_add_tile<T, rows(), vectors()>(weights + j * kQueryBlock, kQueryBlock, 1,
                                                weighted + c * kQueryBlock * kChunk + column, kChunk, queries.rows,
                                                sums + j * pitch + c * kChunk + column, pitch);
      });
    });
}

}  // namespace MI_ISA
}  // namespace mi
