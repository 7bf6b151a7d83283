// What a gradient's walk turns a tile of scores into: the weights w_ij = dL/ds_ij.
#pragma once
#include "pairwise_forward.cuh"
#include "runs.cuh"

namespace mi::cuda {

template <class T>
using ProductsTile = typename T::Scalar[T::kRowBlocks][T::kValueChunks * T::kChunkBlocks][4];

// Weights as the left factors of products: a row of blocks each.
template <class T>
using WeightRows = typename T::Math::template Weights<T::kColumnBlocks>;

// What `take` of a kind of weights serves: of what is left each pair is looked at.
enum class Takes { kNothing, kNoPositives, kEverything };

// Sums, over the sides that have terms, of sign 2^(s - reference).
template <class T, bool kOwnerTerm = true, bool kStreamedTerm = true>
struct FixedWeights {
  using Scalar = typename T::Scalar;
  const GradientParams& p;
  const Ring<T>& ring;
  const Place<T>& place;
  bool is_signed;
  const Pair<Scalar>* references;      // that this thread fetches next
  uint32_t fetched, first_and_second;  // of two arrays in shared memory the one fetched to last, and their sum
  uint32_t to, from;                   // where in them this thread writes and reads

  __device__ FixedWeights(const GradientParams& p, const Ring<T>& ring, const Place<T>& place)
      : p(p),
        ring(ring),
        place(place),
        is_signed(p.any_negative && *p.any_negative > 0),
        references(static_cast<const Pair<Scalar>*>(p.walk.streamed.references) + ring.tile * (T::kColumns / 2) +
                   threadIdx.x) {
    fetched = shared_address(ring.streamed(1).reference);
    first_and_second = shared_address(ring.streamed(0).reference) + fetched;
    to = opaque(ring.streamed(0).place_of(threadIdx.x) * sizeof(Scalar));
    from = opaque((place.column + place.t * 4) * sizeof(Scalar));
  }

  __device__ bool any_plain() const { return !is_signed; }  // tiles are taken without a look at signs

  // The streamed rows' references, of one tile after the other, while those of the tile before are read.
  __device__ __forceinline__ void fetch() {
    if constexpr (kStreamedTerm) {
      static_assert(2 * T::kColumns <= kRowsPastEnd);
      fetched = first_and_second - fetched;
      if (threadIdx.x < T::kColumns / 2)
        copy_async<sizeof(Pair<Scalar>)>(fetched + to, references, sizeof(Pair<Scalar>));
      references += T::kColumns / 2;
    }
  }

  __device__ __forceinline__ const Term<Scalar>& row_term(int k, const Place<T>& place) const {
    return ring.owner().term[place.row + place.row_of(k / 2, k % 2)];
  }
  __device__ __forceinline__ const Term<Scalar>& column_term(int tile, int k, const Place<T>& place) const {
    return ring.streamed(tile).term[place.column + place.column_of(k / 2, k % 2)];
  }

  static constexpr Takes kTakes = Takes::kNoPositives;
  static constexpr bool kTakesAny = false;  // factor and offset, see Scores

  // Where all gradients are positive, and no positive is in the tile.
  __device__ __forceinline__ void take(WeightRows<T> (&left)[T::kRowBlocks], const Tile<T>& s, Affine<Scalar> affine,
                                       ProductsTile<T>&) const {
    const Scalar factor = affine.factor;
    Scalar row[2 * T::kRowBlocks];
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) row[k] = kOwnerTerm ? row_term(k, place).reference : Scalar(0);
    // a tile that is held is used while the next is brought in, otherwise the last step of its own does that
    const uint32_t in_use = ring.l.held() ? first_and_second - fetched : fetched;
#pragma unroll
    for (int c = 0; c < T::kColumnBlocks; c += 2) {
      Scalar columns[4] = {};
      if (kStreamedTerm)
#pragma unroll
        for (int k = 0; k < 4; k += kRun<Scalar>)
          load_shared_run(in_use + from + (c / 2 * 16 + k) * sizeof(Scalar), columns + k);
#pragma unroll
      for (int r = 0; r < T::kRowBlocks; r++)
#pragma unroll
        for (int b = 0; b < 2; b++) {
          Scalar w[4];
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const Scalar x = s[r][c + b][e], from_row = exp2_of(fma(x, factor, -row[2 * r + e / 2])),
                         from_column = exp2_of(fma(x, factor, -columns[2 * b + e % 2]));
            w[e] = !kStreamedTerm ? from_row : !kOwnerTerm ? from_column : from_row + from_column;
          }
          left[r].put(c + b, w);
        }
      if (kStreamedTerm) read_again();
    }
  }
  // Of any tile, in place.
  __device__ __forceinline__ void apply(Tile<T>& s, Affine<Scalar> affine, int tile) const {
    const Scalar factor = affine.factor;
    const Place<T> place = Place<T>::again();
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      const Term<Scalar> row = kOwnerTerm ? row_term(k, place) : Term<Scalar>{};
#pragma unroll
      for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
        Scalar& x = s[k / 2][q / 2][2 * (k % 2) + q % 2];
        const Term<Scalar> column = kStreamedTerm ? column_term(tile, q, place) : Term<Scalar>{};
        const Scalar from_row = row.sign * exp2_of(fma(x, factor, -row.reference));
        const Scalar from_column = column.sign * exp2_of(fma(x, factor, -column.reference));
        x = !kStreamedTerm ? from_row : !kOwnerTerm ? from_column : from_row + from_column;
        read_again();
      }
    }
  }

  // A positive's weight is its own upstream gradient.
  __device__ __forceinline__ void set_positives(Tile<T>& w, const Scores<T>& scores, int tile) const {
    const Place<T> place = Place<T>::again();
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) {
      const int target = scores.owner_target(tile, k / 2, k % 2, place);
      const Scalar weight = target < 0 ? Scalar(0) : row_term(k, place).positive;
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
      const int target = scores.streamed_target(tile, q / 2, q % 2, place);
      const Scalar weight = target < 0 ? Scalar(0) : column_term(tile, q, place).positive;
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
template <class T, bool kOwnerTerm>
struct SoftplusWeights : FixedWeights<T, kOwnerTerm, !kOwnerTerm> {
  using Scalar = typename T::Scalar;
  using FixedWeights<T, kOwnerTerm, !kOwnerTerm>::FixedWeights;

  static constexpr Takes kTakes = Takes::kNothing;
  static constexpr bool kTakesAny = true;

  __device__ bool any_plain() const { return false; }
  __device__ void fetch() const {}

  __device__ __forceinline__ void apply(Tile<T>& s, Affine<Scalar> affine, int tile) const {
    auto weigh = [&](Scalar& x, Scalar u) {
      x = u == 0 ? Scalar(0) : u * reciprocal(1 + exp2_of(-fma(x, affine.factor, affine.offset)));
    };
    Scalar row[2 * T::kRowBlocks];
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) row[k] = kOwnerTerm ? this->row_term(k, this->place).sign : Scalar(0);
#pragma unroll
    for (int q = 0; q < 2 * T::kColumnBlocks; q++) {
      const Scalar column = kOwnerTerm ? Scalar(0) : this->column_term(tile, q, this->place).sign;
#pragma unroll
      for (int k = 0; k < 2 * T::kRowBlocks; k++)
        weigh(s[k / 2][q / 2][2 * (k % 2) + q % 2], kOwnerTerm ? row[k] : column);
      read_again();
    }
  }
  __device__ __forceinline__ void set_positives(Tile<T>&, const Scores<T>&, int) const {}
};

// sigmoid(s) of the negatives, in units of p.unit: all count alike.
template <class T>
struct SigmoidWeights {
  using Scalar = typename T::Scalar;
  static constexpr Takes kTakes = Takes::kEverything;
  static constexpr bool kTakesAny = true;
  Scalar unit;

  __device__ SigmoidWeights(const GradientParams& p, const Ring<T>&, const Place<T>&)
      : unit(static_cast<Scalar>(*p.unit)) {}

  __device__ bool any_plain() const { return true; }
  __device__ void fetch() const {}

  __device__ __forceinline__ void take(WeightRows<T> (&left)[T::kRowBlocks], const Tile<T>& s, Affine<Scalar> affine,
                                       ProductsTile<T>&) const {
#pragma unroll
    for (int r = 0; r < T::kRowBlocks; r++)
#pragma unroll
      for (int c = 0; c < T::kColumnBlocks; c++) {
        Scalar w[4];
#pragma unroll
        for (int e = 0; e < 4; e++)
          w[e] = reciprocal(fma(exp2_of(fma(s[r][c][e], -affine.factor, -affine.offset)), unit, unit));
        left[r].put(c, w);
      }
  }
  __device__ __forceinline__ void finish() const {}
};

// 2^(s - r), r the row's running reference. Sums are rescaled when r rises, and r rises only where scores leave it
// behind, which shows in their sum without a look at each: weights stay between 2^kHeadroom, that of the highest score
// when r was set, and kHighestSum, which float16 can hold.
template <class T>
struct OnlineWeights {
  using Scalar = typename T::Scalar;
  static constexpr Takes kTakes = Takes::kEverything;
  static constexpr bool kTakesAny = false;
  static constexpr Scalar kHeadroom = 6, kHighestSum = 1 << 14;
  const GradientParams& p;
  const Ring<T>& ring;
  const Place<T>& place;
  RowPart<Scalar> part[T::kRowBlocks][2];  // the four threads of a row share the reference, and sum their own columns

  __device__ bool any_plain() const { return true; }
  __device__ void fetch() const {}

  __device__ OnlineWeights(const GradientParams& p, const Ring<T>& ring, const Place<T>& place)
      : p(p), ring(ring), place(place) {
#pragma unroll
    for (int k = 0; k < 2 * T::kRowBlocks; k++) part[k / 2][k % 2] = {-kHighest<T>, 0};
  }

  __device__ __forceinline__ void take(WeightRows<T> (&left)[T::kRowBlocks], const Tile<T>& s, Affine<Scalar> affine,
                                       ProductsTile<T>& products) {
    const Scalar factor = affine.factor;
#pragma unroll
    for (int r = 0; r < T::kRowBlocks; r++) {
      Scalar sum[2];
      for (;;) {
        exponentials(left[r], sum, s[r], part[r], factor);
        const bool behind = !(sum[0] <= kHighestSum && sum[1] <= kHighestSum);
        if (!__any_sync(~0u, behind) || !raise_references(s[r], factor, part[r], products[r])) break;
      }
      part[r][0].sum += sum[0];
      part[r][1].sum += sum[1];
    }
  }

  using Block = Scalar[T::kColumnBlocks][4];
  static __device__ __forceinline__ void exponentials(WeightRows<T>& left, Scalar (&sum)[2], const Block& s,
                                                      const RowPart<Scalar> (&part)[2], Scalar factor) {
#pragma unroll
    for (int c = 0; c < T::kColumnBlocks; c++) {
      Scalar w[4];
#pragma unroll
      for (int e = 0; e < 4; e++) {
        w[e] = exp2_of(fma(s[c][e], factor, -part[e / 2].reference));
        sum[e / 2] = c == 0 && e % 2 == 0 ? w[e] : sum[e / 2] + w[e];
      }
      left.put(c, w);
    }
  }
  // Whether any of the warp's rises.
  static __device__ __forceinline__ bool raise_references(const Block& s, Scalar factor, RowPart<Scalar> (&part)[2],
                                                          Scalar (&products)[T::kValueChunks * T::kChunkBlocks][4]) {
    bool rises = false;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      Scalar highest = s[0][2 * h];
#pragma unroll
      for (int q = 1; q < 2 * T::kColumnBlocks; q++) highest = fmax(highest, s[q / 2][2 * h + q % 2]);
      highest *= factor;
      highest = fmax(highest, __shfl_xor_sync(~0u, highest, 1));
      highest = fmax(highest, __shfl_xor_sync(~0u, highest, 2));
      const Scalar raised = fmin(fmax(part[h].reference, highest - kHeadroom), kHighest<T>);
      rises |= raised > part[h].reference;
      const Scalar rescale = exp2_of(part[h].reference - raised);
      part[h] = {raised, part[h].sum * rescale};
#pragma unroll
      for (int q = 0; q < 2 * T::kValueChunks * T::kChunkBlocks; q++) products[q / 2][2 * h + q % 2] *= rescale;
    }
    return __any_sync(~0u, rises);
  }

  __device__ __forceinline__ void finish() const {
    const Place<T> place = Place<T>::again();
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
