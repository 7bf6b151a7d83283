// The gathered operators, once for all backends: check, allocate, describe, call the walk. A backend offers
//   Arguments                                          what keeps the tensors of a call and its problem
//   arguments(op, x, y, index, scale, bias)
//   log_sum_exp, fused, gradient, softplus_sum, ranking     the walks
#pragma once
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../core/partition.h"
#include "gathered_arguments.h"

namespace mi {

template <class Backend>
struct GatheredOperators {
  static Tensor lse(Tensor x, Tensor y, OptionalTensor index, Tensor scale) {
    const auto a = Backend::arguments("gathered_lse", x, y, index, scale, {});
    const Tensor negative_lse = new_doubles(x, {x.size(0)});
    Backend::log_sum_exp(a, 0, doubles(negative_lse));
    return negative_lse;
  }

  static Tensor clipped_lse(Tensor x, Tensor y, OptionalTensor index, Tensor scale, Tensor bias, double clip) {
    const auto a = Backend::arguments("gathered_clipped_lse", x, y, index, scale, bias);
    check(clip > 0, "gathered_clipped_lse", "clip must be positive, but is ", clip);
    const Tensor negative_lse = new_doubles(x, {x.size(0)});
    Backend::log_sum_exp(a, clip, doubles(negative_lse));
    return negative_lse;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fused(Tensor x, Tensor y, OptionalTensor index,
                                                                  Tensor scale, Tensor positive,
                                                                  double positive_log_weight,
                                                                  double negative_log_weight, bool global_partition,
                                                                  bool candidate_gradient) {
    const auto a = Backend::arguments("gathered_fused", x, y, index, scale, {});
    positive = row_statistic("gathered_fused", "positive", positive, x);
    const Tensor loss = new_doubles(x, {}), negative_lse = new_doubles(x, {x.size(0)});
    const Tensor dx = new_gradient(x), dy = candidate_gradient ? new_gradient(y) : none(x), dscale = new_doubles(x, {}),
                 dpositive = new_doubles(x, {x.size(0)});
    const PartitionWeights weights{global_partition ? Partition::kGlobal : Partition::kRows, positive_log_weight,
                                   negative_log_weight};
    Backend::fused(a, weights, doubles(positive), doubles(negative_lse),
                   {dx.mutable_data_ptr(), candidate_gradient ? dy.mutable_data_ptr() : nullptr, doubles(dscale)},
                   doubles(dpositive), doubles(loss));
    return {loss, dx, dy, dscale, dpositive};
  }

  static std::tuple<Tensor, Tensor, Tensor> gradient(Tensor x, Tensor y, OptionalTensor index, Tensor scale,
                                                     Tensor negative_lse, Tensor grad_negative_lse,
                                                     bool candidate_gradient) {
    const auto a = Backend::arguments("gathered_gradient", x, y, index, scale, {});
    negative_lse = row_statistic("gathered_gradient", "negative_lse", negative_lse, x);
    grad_negative_lse = row_statistic("gathered_gradient", "grad_negative_lse", grad_negative_lse, x);
    const Tensor dx = new_gradient(x), dy = candidate_gradient ? new_gradient(y) : none(x), dscale = new_doubles(x, {});
    Backend::gradient(a, {doubles(negative_lse), doubles(grad_negative_lse)},
                      {dx.mutable_data_ptr(), candidate_gradient ? dy.mutable_data_ptr() : nullptr, doubles(dscale)});
    return {dx, dy, dscale};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> softplus_sum(Tensor x, Tensor y, OptionalTensor index,
                                                                         Tensor scale, Tensor bias, bool query_gradient,
                                                                         bool candidate_gradient) {
    const auto a = Backend::arguments("gathered_softplus_sum", x, y, index, scale, bias);
    const Tensor value = new_doubles(x, {}), dscale = new_doubles(x, {}), dbias = new_doubles(x, {});
    const Tensor dx = query_gradient ? new_gradient(x) : none(x), dy = candidate_gradient ? new_gradient(y) : none(x);
    Backend::softplus_sum(a, doubles(value),
                          {query_gradient ? dx.mutable_data_ptr() : nullptr,
                           candidate_gradient ? dy.mutable_data_ptr() : nullptr, doubles(dscale), doubles(dbias)});
    return {value, dx, dy, dscale, dbias};
  }

  static std::tuple<Tensor, Tensor, Tensor> ranking(Tensor x, Tensor y, OptionalTensor index, Tensor scale,
                                                    Tensor positive) {
    const char* op = "gathered_ranking";
    const auto a = Backend::arguments(op, x, y, index, scale, {});
    positive = rows_like(op, "positive", positive, x);
    const int64_t n = x.size(0);
    const Tensor negative_lse = new_doubles(x, {n}), entropy = new_doubles(x, {n}), rank = new_integers(x, {n});
    Backend::ranking(a, features_of(positive), {nullptr, doubles(negative_lse), doubles(entropy), integers(rank)});
    return {negative_lse, entropy, rank};
  }

  static void implement(torch::stable::detail::StableLibrary& library) {
    library.impl("gathered_lse", TORCH_BOX(&GatheredOperators::lse));
    library.impl("gathered_clipped_lse", TORCH_BOX(&GatheredOperators::clipped_lse));
    library.impl("gathered_fused", TORCH_BOX(&GatheredOperators::fused));
    library.impl("gathered_gradient", TORCH_BOX(&GatheredOperators::gradient));
    library.impl("gathered_softplus_sum", TORCH_BOX(&GatheredOperators::softplus_sum));
    library.impl("gathered_ranking", TORCH_BOX(&GatheredOperators::ranking));
  }

 private:
  static Tensor row_statistic(const char* op, const char* name, const Tensor& t, const Tensor& x) {
    check_vector(op, name, t, x.size(0), ScalarType::Double, "float64");
    check_device(op, name, t, x);
    return packed(t);
  }
};

}  // namespace mi
