// Arguments of the gathered operators: checked, made row-contiguous, and described to the kernels of the CPU or of a
// GPU.
#pragma once
#include <limits>

#include "checks.h"

namespace mi {

using OptionalTensor = std::optional<Tensor>;

// Holds the tensors that a GatheredProblem or DeviceGatheredProblem points into.
template <class Problem>
struct GatheredArgumentsOf {
  Problem problem;
  Tensor x, y;
  OptionalTensor index;
};

template <class Problem>
void take_bank(const char* op, GatheredArgumentsOf<Problem>& a, const Tensor& x, const Tensor& y, const Tensor& index) {
  check(y.dim() == 2 && y.size(1) == x.size(1), op, "y, a bank [V, d], must agree in d with x ", shape_of(x),
        ", but has shape ", shape_of(y));
  check(index.dim() == 2 && index.size(0) == x.size(0) && index.scalar_type() == ScalarType::Long, op,
        "index must be int64 of shape [", x.size(0), ", K - 1], but has shape ", shape_of(index));
  check_device(op, "index", index, x);
  a.y = rows_contiguous(y);
  a.index = packed(index);
  Problem& p = a.problem;
  p.negatives = index.size(1);
  static const int64_t no_index = 0;  // an empty tensor has no data, but is an index all the same
  p.index = index.numel() > 0 ? static_cast<const int64_t*>(a.index->const_data_ptr()) : &no_index;
  p.candidates = features_of(a.y);
}

template <class Problem>
void take_negatives(const char* op, GatheredArgumentsOf<Problem>& a, const Tensor& x, const Tensor& y) {
  check(y.dim() == 3 && y.size(0) == x.size(0) && y.size(2) == x.size(1), op,
        "y must be, without index, the negatives [n, K - 1, d] of x ", shape_of(x), ", but has shape ", shape_of(y));
  a.y = y.size(2) <= 1 || y.stride(2) == 1 ? y : packed(y);
  a.problem.negatives = y.size(1);
  a.problem.query_pitch = a.y.stride(0);
  a.problem.candidates = {a.y.const_data_ptr(), y.size(0) * y.size(1), a.y.stride(1)};
}

// What needs no look at any value.
template <class Problem>
GatheredArgumentsOf<Problem> described_gathered(const char* op, const Tensor& x, const Tensor& y,
                                                const OptionalTensor& index) {
  check(x.dim() == 2 && x.size(1) > 0, op, "x must have shape [n, d], d > 0, but has shape ", shape_of(x));
  check(x.size(0) <= std::numeric_limits<int32_t>::max(), op, "x has too many queries, ", x.size(0));
  check(x.scalar_type() == y.scalar_type(), op, "x and y must have the same dtype");
  check_device(op, "y", y, x);
  GatheredArgumentsOf<Problem> a{{}, rows_contiguous(x), y, index};
  Problem& p = a.problem;
  p.queries = features_of(a.x);
  p.dim = x.size(1);
  p.dtype = dtype_of(op, "x", x);
  if (index)
    take_bank(op, a, x, y, *index);
  else
    take_negatives(op, a, x, y);
  return a;
}

}  // namespace mi
