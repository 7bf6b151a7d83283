// The walk that the queries own: y_ik is read once, for its score and, weighted at once, for the gradient of x_i.
#pragma once
#include <type_traits>

#include "gathered_rows.cuh"
#include "gathered_weights.cuh"

namespace mi::cuda {

// `kPieces` of a lane's registers hold a row; so many rows at a time that 8 loads of 16 bytes are on their way.
template <class Element_, int kPieces_>
struct GatheredShape {
  using Element = Element_;
  using Scalar = typename ScalarOf<Element>::type;
  static constexpr int kPieces = kPieces_, kRows = 8 / kPieces_;

  template <int kRows>
  static __device__ __forceinline__ void load(Piece (&out)[kRows][kPieces], const GatheredRows& rows,
                                              const int64_t (&row)[kRows], int at, int row_bytes) {
    if (rows.unit == kPiece)
      load_rows_by<kPiece>(out, rows, row, at, row_bytes);
    else
      load_rows_by<4>(out, rows, row, at, row_bytes);
  }
};

// Elements of 2 bytes that no 4 bytes align: the loads of two rows take the registers.
template <class Element_>
struct HalfwordShape {
  using Element = Element_;
  using Scalar = float;
  static constexpr int kPieces = 1, kRows = 2;

  template <int kRows>
  static __device__ __forceinline__ void load(Piece (&out)[kRows][kPieces], const GatheredRows& rows,
                                              const int64_t (&row)[kRows], int at, int row_bytes) {
    load_rows_by<2>(out, rows, row, at, row_bytes);
  }
};

// sum_k w_ik y_ik of a lane's columns.
template <class T>
struct WeightedRows {
  using Scalar = typename T::Scalar;
  Scalar of[T::kPieces][kElements<typename T::Element>] = {};

  template <class Call>
  __device__ __forceinline__ void each(Call&& call) {
#pragma unroll
    for (auto& piece : of)
#pragma unroll
      for (Scalar& sum : piece) call(sum);
  }
  __device__ __forceinline__ void add(Scalar weight, const Piece (&row)[T::kPieces]) {
#pragma unroll
    for (int p = 0; p < T::kPieces; p++)
#pragma unroll
      for (int k = 0; k < kElements<typename T::Element>; k++)
        of[p][k] = fma(weight, element(row[p], k, typename T::Element{}), of[p][k]);
  }
  __device__ __forceinline__ void scale(Scalar factor) {
    each([&](Scalar& sum) { sum *= factor; });
  }
};
template <class T>
struct NoRows {
  __device__ __forceinline__ void add(typename T::Scalar, const Piece (&)[T::kPieces]) {}
  __device__ __forceinline__ void scale(typename T::Scalar) {}
};

template <class Scalar>
struct alignas(kPiece) Stored {
  Scalar of[kPiece / sizeof(Scalar)];
};
template <class Scalar, int kCount>
__device__ __forceinline__ void store(Scalar* out, const Scalar (&values)[kCount]) {
  constexpr int kAtOnce = kPiece / static_cast<int>(sizeof(Scalar));
#pragma unroll
  for (int k = 0; k < kCount; k += kAtOnce) {
    Stored<Scalar> stored;
#pragma unroll
    for (int e = 0; e < kAtOnce; e++) stored.of[e] = values[k + e];
    *reinterpret_cast<Stored<Scalar>*>(out + k) = stored;
  }
}

// A warp's part of a query's negatives. Its teams take neighbouring rows, a lane of a team every `lanes`-th piece.
template <class T>
struct NegativesReader {
  using Element = typename T::Element;
  using Scalar = typename T::Scalar;
  static constexpr int64_t kNone = -1, kOutside = -2;  // no row: past the part, and outside the bank

  const GatheredWalk& p;
  int64_t part, query, first, last;
  int lane, team, teams, at;
  GatheredRows rows;
  Scalar factor, offset, clip;
  Piece x[1][T::kPieces];

  __device__ __forceinline__ NegativesReader(const GatheredWalk& p, int64_t unit) : p(p), rows(p.candidates) {
    part = unit % p.parts, query = unit / p.parts;
    first = part * p.part_size, last = min(first + p.part_size, p.m);
    lane = threadIdx.x % 32, team = lane / p.lanes, teams = 32 / p.lanes, at = lane % p.lanes * kPiece;
    if (!p.index) rows.data += query * p.query_pitch;
    factor = static_cast<Scalar>(*p.scale * kLog2E), offset = static_cast<Scalar>(p.bias ? *p.bias * kLog2E : 0);
    clip = static_cast<Scalar>(p.clip * kLog2E);
    read_query(at);
  }
  __device__ __forceinline__ void read_query(int at) { T::load(x, p.queries, {query}, at, p.row_bytes); }

  __device__ __forceinline__ int64_t look_up(int64_t k) const {
    if (k >= last) return kNone;
    if (!p.index) return k;
    const int64_t row = __ldg(p.index + query * p.m + k);
    return static_cast<uint64_t>(row) < static_cast<uint64_t>(p.rows) ? row : kOutside;
  }

  // Scores of the rows that lanes first_lane + team, + teams, ... looked up, log2 units; y: their pieces of this
  // block's chunk, which comes last.
  __device__ __forceinline__ void read(int64_t looked_up, int first_lane, Piece (&y)[T::kRows][T::kPieces],
                                       Scalar (&s)[T::kRows]) {
    int64_t row[T::kRows];
#pragma unroll
    for (int r = 0; r < T::kRows; r++) row[r] = __shfl_sync(~0u, looked_up, first_lane + r * teams + team);
    score(rows, row, y, s);
#pragma unroll
    for (int r = 0; r < T::kRows; r++)
      s[r] = row[r] == kNone ? Scalar(-kInfinity) : row[r] == kOutside ? Scalar(__builtin_nan("")) : s[r];
  }

  // The score of the query's positive, by the arithmetic of the negatives: equal vectors score equal.
  __device__ __forceinline__ Scalar read_positive() {
    Piece y[1][T::kPieces];
    Scalar s[1];
    score(p.positives, {query}, y, s);
    return s[0];
  }

  // Where lane 0 of each team leaves the scores of `read`.
  __device__ __forceinline__ void keep(int64_t first_row, const Scalar (&s)[T::kRows]) const {
    if (!p.scores || blockIdx.y > 0 || lane % p.lanes > 0) return;
#pragma unroll
    for (int r = 0; r < T::kRows; r++) {
      const int64_t k = first_row + r * teams + team;
      if (k < last) static_cast<Scalar*>(p.scores)[query * p.m + k] = s[r];
    }
  }
  template <class Part>
  __device__ __forceinline__ void write(const Part& result) const {
    if (blockIdx.y == 0 && lane == 0) static_cast<Part*>(p.results)[part * p.n + query] = result;
  }
  __device__ __forceinline__ void write_products(WeightedRows<T>& rows) const {
    rows.each([&](Scalar& sum) { sum = sum_of_teams(sum, p.lanes); });
    if (team > 0) return;
    Scalar* out = static_cast<Scalar*>(p.products) + (part * p.n + query) * product_pitch(p.dim);
#pragma unroll
    for (int k = 0; k < T::kPieces; k++) {
      const int column = (at / kPiece + (blockIdx.y * T::kPieces + k) * 32) * kElements<Element>;
      if (column < p.dim) store(out + column, rows.of[k]);
    }
  }
  __device__ __forceinline__ void write_products(const NoRows<T>&) const {}

 private:
  template <int kRows>
  __device__ __forceinline__ void score(const GatheredRows& from, const int64_t (&row)[kRows],
                                        Piece (&y)[kRows][T::kPieces], Scalar (&s)[kRows]) {
#pragma unroll
    for (Scalar& sum : s) sum = 0;
    for (int c = 1; c <= p.chunks; c++) {
      const int chunk = blockIdx.y + c < p.chunks ? blockIdx.y + c : blockIdx.y + c - p.chunks;
      const int here = at + chunk * T::kPieces * 32 * kPiece;
      if (p.chunks > 1) read_query(here);
      T::load(y, from, row, here, p.row_bytes);
      add_products(y, s);
    }
#pragma unroll
    for (Scalar& sum : s) {
#pragma unroll
      for (int mask = 16; mask > 0; mask /= 2)
        if (mask < p.lanes) sum += __shfl_xor_sync(~0u, sum, mask);
      sum = fma(sum, factor, offset);
      if (p.clip > 0) sum = sum > clip ? clip : sum < -clip ? -clip : sum;
    }
  }
  template <int kRows>
  __device__ __forceinline__ void add_products(const Piece (&y)[kRows][T::kPieces], Scalar (&s)[kRows]) const {
#pragma unroll
    for (int k = 0; k < T::kPieces; k++)
#pragma unroll
      for (int e = 0; e < kElements<Element>; e++) {
        const Scalar of_query = element(x[0][k], e, Element{});
#pragma unroll
        for (int r = 0; r < kRows; r++) s[r] = fma(of_query, element(y[r][k], e, Element{}), s[r]);
      }
  }
};

template <class T, class Weights, bool kProducts>
__global__ void __launch_bounds__(kGatheredThreads) gathered_queries(const __grid_constant__ GatheredWalk p) {
  const int64_t unit = global_thread() / 32;
  if (unit >= p.n * p.parts) return;
  NegativesReader<T> negatives(p, unit);
  Weights weights;
  weights.start(negatives);
  std::conditional_t<kProducts, WeightedRows<T>, NoRows<T>> products;
  int64_t next = negatives.look_up(negatives.first + negatives.lane);
  for (int64_t block = negatives.first; block < negatives.last; block += 32) {
    const int64_t looked_up = next;
    next = negatives.look_up(block + 32 + negatives.lane);
    for (int b = 0; b < 32 && block + b < negatives.last; b += T::kRows * negatives.teams) {
      Piece y[T::kRows][T::kPieces];
      typename T::Scalar s[T::kRows];
      negatives.read(looked_up, b, y, s);
      negatives.keep(block + b, s);
      weights.weigh(s, products);
#pragma unroll
      for (int r = 0; r < T::kRows; r++) products.add(s[r], y[r]);
    }
  }
  weights.join_teams(p.lanes, products);
  negatives.write(weights.part());
  negatives.write_products(products);
}

}  // namespace mi::cuda
