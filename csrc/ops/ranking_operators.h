// dot_ranking, once for all backends. A backend offers
//   arguments(op, x, y, scale, bias, exclusions..., tf32)     as of DotOperators
//   ranking(arguments, external_positive, results)            the walk; Features{} where there are targets
#pragma once
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "dot_arguments.h"

namespace mi {

// Rows of external_positive, as those of x.
inline Tensor external_rows(const char* op, const Tensor& x, const Tensor& external_positive) {
  check(
      external_positive.dim() == 2 && external_positive.size(0) == x.size(0) && external_positive.size(1) == x.size(1),
      op, "external_positive must have the shape of x, ", shape_of(x), ", but has ", shape_of(external_positive));
  check(external_positive.scalar_type() == x.scalar_type(), op, "x and external_positive must have the same dtype");
  check_device(op, "external_positive", external_positive, x);
  return rows_contiguous(external_positive);
}

inline Features features_of(const Tensor& rows) {
  return {rows.const_data_ptr(), rows.size(0), rows.size(0) > 1 ? rows.stride(0) : rows.size(1)};
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor> dot_ranking(Tensor x, Tensor y, Tensor scale, OptionalTensor target,
                                                       OptionalTensor x_label, OptionalTensor y_label,
                                                       OptionalTensor candidate_log_weight,
                                                       OptionalTensor external_positive, bool tf32) {
  const char* op = "dot_ranking";
  const auto a = Backend::arguments(op, x, y, scale, {}, target, x_label, y_label, candidate_log_weight, tf32);
  check(target.has_value() != external_positive.has_value(), op, "expected either target or external_positive");
  if (external_positive) external_positive = external_rows(op, x, *external_positive);
  const int64_t n = x.size(0);
  const Tensor positive = target ? new_doubles(x, {n}) : none(x), negative_lse = new_doubles(x, {n});
  const Tensor entropy = new_doubles(x, {n}), rank = new_integers(x, {n});
  Backend::ranking(a, external_positive ? features_of(*external_positive) : Features{},
                   {doubles(positive), doubles(negative_lse), doubles(entropy), integers(rank)});
  return {positive, negative_lse, entropy, rank};
}

}  // namespace mi
