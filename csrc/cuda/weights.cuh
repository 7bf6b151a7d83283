// What a gradient's walk turns a tile of scores into: the weights w_ij = dL/ds_ij.
#pragma once
#include "pairwise_forward.cuh"

namespace mi::cuda {

template <class T>
using ProductsTile = typename T::Scalar[T::kRowBlocks][T::kValueChunks * T::kChunkBlocks][4];

// Sums, over the sides that have terms, of sign 2^(s - reference).
template <class T>
struct FixedWeights {
  using Scalar = typename T::Scalar;
  const GradientParams& p;
  const Ring<T>& ring;
  const Place<T>& place;
  bool is_signed;

  __device__ FixedWeights(const GradientParams& p, const Ring<T>& ring, const Place<T>& place)
      : p(p), ring(ring), place(place), is_signed(p.any_negative && *p.any_negative > 0) {}

  __device__ __forceinline__ const Term<Scalar>& row_term(int k) const {
    return ring.owner().term[place.row + place.row_of(k / 2, k % 2)];
  }
  __device__ __forceinline__ const Term<Scalar>& column_term(int tile, int k) const {
    return ring.streamed(tile).term[place.column + place.column_of(k / 2, k % 2)];
  }

  static constexpr bool kTakesAny = false;  // factor and offset, see Scores

  __device__ __forceinline__ void apply(Tile<T>& s, Affine<Scalar> affine, int tile, ProductsTile<T>&) const {
    const Scalar factor = affine.factor;
    if (p.owner_term && p.streamed_term)
      sum_terms<true, true>(s, factor, tile);
    else if (p.owner_term)
      is_signed ? sum_terms<true, false>(s, factor, tile) : row_exponentials(s, factor);
    else
      is_signed ? sum_terms<false, true>(s, factor, tile) : column_exponentials(s, factor, tile);
  }

  __device__ __forceinline__ void row_exponentials(Tile<T>& s, Scalar factor) const {
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      const Scalar reference = row_term(k).reference;
#pragma unroll
      for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
        Scalar& x = s[k / 2][q / 2][2 * (k % 2) + q % 2];
        x = exp2_of(fma(x, factor, -reference));
      }
      read_again();
    }
  }
  __device__ __forceinline__ void column_exponentials(Tile<T>& s, Scalar factor, int tile) const {
#pragma unroll
    for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
      const Scalar reference = column_term(tile, q).reference;
#pragma unroll
      for (int k = 0; k < 2 * T::kRowBlocks; k++) {
        Scalar& x = s[k / 2][q / 2][2 * (k % 2) + q % 2];
        x = exp2_of(fma(x, factor, -reference));
      }
      read_again();
    }
  }
  template <bool kRow, bool kColumn>
  __device__ __forceinline__ void sum_terms(Tile<T>& s, Scalar factor, int tile) const {
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      const Term<Scalar> row = kRow ? row_term(k) : Term<Scalar>{};
#pragma unroll
      for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
        Scalar& x = s[k / 2][q / 2][2 * (k % 2) + q % 2];
        const Term<Scalar> column = kColumn ? column_term(tile, q) : Term<Scalar>{};
        const Scalar from_row = kRow ? row.sign * exp2_of(fma(x, factor, -row.reference)) : Scalar(0);
        x = kColumn ? from_row + column.sign * exp2_of(fma(x, factor, -column.reference)) : from_row;
      }
      read_again();
    }
  }

  // A positive's weight is its own upstream gradient.
  __device__ __forceinline__ void set_positives(Tile<T>& w, const Scores<T>& scores, int tile) const {
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      const int target = scores.owner_target(tile, k / 2, k % 2);
      const Scalar weight = target < 0 ? Scalar(0) : row_term(k).positive;
#pragma unroll
      for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
        Scalar& x = w[k / 2][q / 2][2 * (k % 2) + q % 2];
        x = target == place.column_of(q / 2, q % 2) ? weight : x;
      }
      read_again();
    }
    if (!p.walk.streamed.target) return;
#pragma unroll
    for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
      const int target = scores.streamed_target(tile, q / 2, q % 2);
      const Scalar weight = target < 0 ? Scalar(0) : column_term(tile, q).positive;
#pragma unroll
      for (int k = 0; k < 2 * T::kRowBlocks; k++) {
        Scalar& x = w[k / 2][q / 2][2 * (k % 2) + q % 2];
        x = target == place.row_of(k / 2, k % 2) ? weight : x;
      }
      read_again();
    }
  }

  __device__ __forceinline__ void finish() const {}
};

// u sigmoid(s) of the negatives; u = 0 is no pair at all, whatever s is.
template <class T>
struct SoftplusWeights : FixedWeights<T> {
  using Scalar = typename T::Scalar;
  using FixedWeights<T>::FixedWeights;

  static constexpr bool kTakesAny = true;

  __device__ __forceinline__ void apply(Tile<T>& s, Affine<Scalar> affine, int tile, ProductsTile<T>&) const {
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      const Scalar row = this->p.owner_term ? this->row_term(k).sign : Scalar(1);
#pragma unroll
      for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
        Scalar& x = s[k / 2][q / 2][2 * (k % 2) + q % 2];
        const Scalar u = this->p.streamed_term ? this->column_term(tile, q).sign : row;
        x = u == 0 ? Scalar(0) : u * reciprocal(1 + exp2_of(-fma(x, affine.factor, affine.offset)));
      }
      read_again();
    }
  }
  __device__ __forceinline__ void set_positives(Tile<T>&, const Scores<T>&, int) const {}
};

// 2^(s - r), r the row's running reference. Sums are rescaled when r rises, and r rises only where a score leaves it
// behind: weights stay between 2^kHeadroom, that of the highest score when r was set, and 2^(kHeadroom + kLazyRange),
// which float16 can hold.
template <class T>
struct OnlineWeights {
  using Scalar = typename T::Scalar;
  static constexpr bool kTakesAny = false;
  static constexpr Scalar kHeadroom = 6, kLazyRange = 8;
  const GradientParams& p;
  const Ring<T>& ring;
  const Place<T>& place;
  RowPart<Scalar> part[T::kRowBlocks][2];  // the four threads of a row share the reference, and sum their own columns

  __device__ OnlineWeights(const GradientParams& p, const Ring<T>& ring, const Place<T>& place)
      : p(p), ring(ring), place(place) {
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) part[k / 2][k % 2] = {-kHighest<T>, 0};
  }

  __device__ __forceinline__ void apply(Tile<T>& s, Affine<Scalar> affine, int, ProductsTile<T>& products) {
    raise_references(s, affine.factor, products);
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      Scalar sum = 0;
#pragma unroll
      for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
        Scalar& x = s[k / 2][q / 2][2 * (k % 2) + q % 2];
        x = exp2_of(fma(x, affine.factor, -part[k / 2][k % 2].reference));
        sum += x;
      }
      part[k / 2][k % 2].sum += sum;
    }
  }

  __device__ __forceinline__ void raise_references(const Tile<T>& s, Scalar factor, ProductsTile<T>& products) {
    Scalar highest[2 * T::kRowBlocks];
    bool left_behind = false;
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      highest[k] = s[k / 2][0][2 * (k % 2)];
#pragma unroll
      for (int q = 1; q < 2 * T::kColumnBlocks; q++)
        highest[k] = fmax(highest[k], s[k / 2][q / 2][2 * (k % 2) + q % 2]);
      highest[k] *= factor;
      left_behind |= highest[k] > part[k / 2][k % 2].reference + (kHeadroom + kLazyRange);
    }
    if (!__any_sync(~0u, left_behind)) return;
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      RowPart<Scalar>& row = part[k / 2][k % 2];
      highest[k] = fmax(highest[k], __shfl_xor_sync(~0u, highest[k], 1));
      highest[k] = fmax(highest[k], __shfl_xor_sync(~0u, highest[k], 2));
      const Scalar raised = fmin(fmax(row.reference, highest[k] - kHeadroom), kHighest<T>);
      const Scalar rescale = exp2_of(row.reference - raised);
      row = {raised, row.sum * rescale};
#pragma unroll
      for (int q = 0; q < 2 * T::kValueChunks * T::kChunkBlocks; q++)
        products[k / 2][q / 2][2 * (k % 2) + q % 2] *= rescale;
    }
  }

  __device__ __forceinline__ void set_positives(Tile<T>&, const Scores<T>&, int) const {}

  __device__ __forceinline__ void finish() const {
    RowPart<Scalar>* parts = static_cast<RowPart<Scalar>*>(p.parts) + blockIdx.y * p.walk.owner.rows;
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      RowPart<Scalar> row = part[k / 2][k % 2];
      row.sum += __shfl_xor_sync(~0u, row.sum, 1);
      row.sum += __shfl_xor_sync(~0u, row.sum, 2);
      const int64_t at = ring.first_row() + place.row + place.row_of(k / 2, k % 2);
      if (blockIdx.z == 0 && place.t == 0 && at < p.walk.owner.rows) parts[at] = row;
    }
  }
};

}  // namespace mi::cuda
