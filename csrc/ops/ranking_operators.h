// dot_ranking, once for all backends. A backend offers
//   arguments(op, x, y, scale, bias, exclusions..., tf32)     as of DotOperators
//   ranking(arguments, external_positive, results)            the walk; Features{} where there are targets
#pragma once
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "dot_arguments.h"

namespace mi {

template <class Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor> dot_ranking(Tensor x, Tensor y, Tensor scale, OptionalTensor target,
                                                       OptionalTensor x_label, OptionalTensor y_label,
                                                       OptionalTensor candidate_log_weight,
                                                       OptionalTensor external_positive, bool tf32) {
  const char* op = "dot_ranking";
  const auto a = Backend::arguments(op, x, y, scale, {}, target, x_label, y_label, candidate_log_weight, tf32);
  check(target.has_value() != external_positive.has_value(), op, "expected either target or external_positive");
  if (external_positive) external_positive = rows_like(op, "external_positive", *external_positive, x);
  const int64_t n = x.size(0);
  const Tensor positive = target ? new_doubles(x, {n}) : none(x), negative_lse = new_doubles(x, {n});
  const Tensor entropy = new_doubles(x, {n}), rank = new_integers(x, {n});
  Backend::ranking(a, external_positive ? features_of(*external_positive) : Features{},
                   {doubles(positive), doubles(negative_lse), doubles(entropy), integers(rank)});
  return {positive, negative_lse, entropy, rank};
}

}  // namespace mi
