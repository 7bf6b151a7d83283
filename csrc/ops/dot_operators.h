// The dot operators, once for all backends: check, allocate, describe, call the walk. A backend offers
//   Arguments                                       what keeps the tensors of a call and its problem
//   arguments(op, x, y, scale, bias, exclusions..., tf32)
//   statistics, fused, gradient, softplus_sum       the walks
#pragma once
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../core/partition.h"
#include "dot_arguments.h"

namespace mi {

template <class Backend>
struct DotOperators {
  static std::tuple<Tensor, Tensor, Tensor> statistics(Tensor x, Tensor y, Tensor scale, OptionalTensor target,
                                                       OptionalTensor x_label, OptionalTensor y_label,
                                                       OptionalTensor candidate_log_weight, bool columns, bool tf32) {
    const auto a =
        Backend::arguments("dot_statistics", x, y, scale, {}, target, x_label, y_label, candidate_log_weight, tf32);
    const Tensor positive = target ? new_doubles(x, {x.size(0)}) : none(x);
    const Tensor negative_lse = new_doubles(x, {x.size(0)});
    const Tensor column_negative_lse = columns ? new_doubles(x, {y.size(0)}) : none(x);
    Backend::statistics(a,
                        {doubles(positive), doubles(negative_lse), columns ? doubles(column_negative_lse) : nullptr});
    return {positive, negative_lse, column_negative_lse};
  }

  static Tensor clipped_lse(Tensor x, Tensor y, Tensor scale, Tensor bias, OptionalTensor target,
                            OptionalTensor x_label, OptionalTensor y_label, OptionalTensor candidate_log_weight,
                            double clip, bool tf32) {
    const auto a =
        Backend::arguments("dot_clipped_lse", x, y, scale, bias, target, x_label, y_label, candidate_log_weight, tf32);
    check(clip > 0, "dot_clipped_lse", "clip must be positive, but is ", clip);
    const Tensor positive = new_doubles(x, {x.size(0)}), negative_lse = new_doubles(x, {x.size(0)});
    Backend::statistics(a, {doubles(positive), doubles(negative_lse), nullptr, clip});
    return negative_lse;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fused(
      Tensor x, Tensor y, Tensor scale, OptionalTensor target, OptionalTensor x_label, OptionalTensor y_label,
      OptionalTensor candidate_log_weight, OptionalTensor external_positive, double positive_log_weight,
      double negative_log_weight, bool global_partition, bool candidate_gradient, bool tf32) {
    const auto a =
        Backend::arguments("dot_fused", x, y, scale, {}, target, x_label, y_label, candidate_log_weight, tf32);
    check(target.has_value() != external_positive.has_value(), "dot_fused",
          "expected either target or external_positive");
    if (external_positive) {
      check_vector("dot_fused", "external_positive", *external_positive, x.size(0), ScalarType::Double, "float64");
      check_device("dot_fused", "external_positive", *external_positive, x);
      external_positive = packed(*external_positive);
    }
    const Tensor loss = new_doubles(x, {}), positive = target ? new_doubles(x, {x.size(0)}) : none(x);
    const Tensor negative_lse = new_doubles(x, {x.size(0)}), dpositive = new_doubles(x, {x.size(0)});
    const Tensor dx = new_gradient(x), dy = candidate_gradient ? new_gradient(y) : none(x);
    const Tensor dscale = new_doubles(x, {});
    const PartitionWeights weights{global_partition ? Partition::kGlobal : Partition::kRows, positive_log_weight,
                                   negative_log_weight};
    Backend::fused(a, weights, external_positive ? doubles(*external_positive) : nullptr,
                   {doubles(positive), doubles(negative_lse)},
                   {dx.mutable_data_ptr(), candidate_gradient ? dy.mutable_data_ptr() : nullptr, doubles(dscale)},
                   doubles(dpositive), doubles(loss));
    return {loss, positive, dx, dy, dscale, dpositive};
  }

  static std::tuple<Tensor, Tensor, Tensor> gradient(Tensor x, Tensor y, Tensor scale, OptionalTensor target,
                                                     OptionalTensor x_label, OptionalTensor y_label,
                                                     OptionalTensor candidate_log_weight, Tensor positive,
                                                     Tensor negative_lse, Tensor column_negative_lse,
                                                     Tensor grad_positive, Tensor grad_negative_lse,
                                                     Tensor grad_column_negative_lse, bool candidate_gradient,
                                                     bool tf32) {
    const auto a =
        Backend::arguments("dot_gradient", x, y, scale, {}, target, x_label, y_label, candidate_log_weight, tf32);
    auto statistic = [&](const char* name, Tensor& t, int64_t length, bool optional) {
      if (!optional || t.numel() > 0) check_vector("dot_gradient", name, t, length, ScalarType::Double, "float64");
      check_device("dot_gradient", name, t, x);
      t = packed(t);
    };
    statistic("positive", positive, x.size(0), !target);
    statistic("negative_lse", negative_lse, x.size(0), false);
    statistic("column_negative_lse", column_negative_lse, y.size(0), true);
    statistic("grad_positive", grad_positive, x.size(0), true);
    statistic("grad_negative_lse", grad_negative_lse, x.size(0), false);
    statistic("grad_column_negative_lse", grad_column_negative_lse, column_negative_lse.numel(), true);
    const Tensor dx = new_gradient(x), dy = candidate_gradient ? new_gradient(y) : none(x);
    const Tensor dscale = new_doubles(x, {});
    Backend::gradient(
        a,
        {doubles_or_null(negative_lse), doubles_or_null(grad_negative_lse), doubles_or_null(column_negative_lse),
         doubles_or_null(grad_column_negative_lse), doubles_or_null(grad_positive)},
        doubles_or_null(positive),
        {dx.mutable_data_ptr(), candidate_gradient ? dy.mutable_data_ptr() : nullptr, doubles(dscale)});
    return {dx, dy, dscale};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> softplus_sum(
      Tensor x, Tensor y, Tensor scale, Tensor bias, OptionalTensor target, OptionalTensor x_label,
      OptionalTensor y_label, OptionalTensor candidate_log_weight, bool query_gradient, bool candidate_gradient,
      bool tf32) {
    const auto a =
        Backend::arguments("dot_softplus_sum", x, y, scale, bias, target, x_label, y_label, candidate_log_weight, tf32);
    const Tensor value = new_doubles(x, {}), positive = target ? new_doubles(x, {x.size(0)}) : none(x);
    const Tensor dx = query_gradient ? new_gradient(x) : none(x), dy = candidate_gradient ? new_gradient(y) : none(x);
    const Tensor dscale = new_doubles(x, {}), dbias = new_doubles(x, {});
    Backend::softplus_sum(a, doubles(positive), doubles(value),
                          {query_gradient ? dx.mutable_data_ptr() : nullptr,
                           candidate_gradient ? dy.mutable_data_ptr() : nullptr, doubles(dscale), doubles(dbias)});
    return {value, positive, dx, dy, dscale, dbias};
  }

  static void implement(torch::stable::detail::StableLibrary& library) {
    library.impl("dot_statistics", TORCH_BOX(&DotOperators::statistics));
    library.impl("dot_clipped_lse", TORCH_BOX(&DotOperators::clipped_lse));
    library.impl("dot_fused", TORCH_BOX(&DotOperators::fused));
    library.impl("dot_gradient", TORCH_BOX(&DotOperators::gradient));
    library.impl("dot_softplus_sum", TORCH_BOX(&DotOperators::softplus_sum));
  }
};

}  // namespace mi
