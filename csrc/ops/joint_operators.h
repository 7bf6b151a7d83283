// The joint operators, once for all backends: check, allocate, describe, call the walk. A backend offers
//   Problem, Arguments                        a problem, and what keeps the tensors of a call and its problem
//   arguments(op, tensors, bias)
//   statistics, fused, gradient, softplus_sum, ranking, matrix, matrix_gradient     the walks
#pragma once
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../core/partition.h"
#include "joint_arguments.h"

namespace mi {

// Gradients of a, b, W1, b1 and w; empty ones for what is not asked for or not there.
struct JointGradientTensors {
  Tensor a, b, inner_weight, inner_bias, last_weight;

  template <class Problem>
  JointGradientTensors(const JointArgumentsOf<Problem>& of, bool wanted)
      : a(wanted ? new_gradient(of.a) : none(of.a)),
        b(wanted ? new_gradient(of.b) : none(of.a)),
        inner_weight(wanted && of.inner_weight ? new_gradient(*of.inner_weight) : none(of.a)),
        inner_bias(wanted && of.inner_bias ? new_gradient(*of.inner_bias) : none(of.a)),
        last_weight(wanted ? new_gradient(of.last_weight) : none(of.a)) {}

  JointGradients pointers() const {
    return {a.mutable_data_ptr(), b.mutable_data_ptr(), inner_weight.mutable_data_ptr(), inner_bias.mutable_data_ptr(),
            last_weight.mutable_data_ptr()};
  }
};

template <class Backend>
struct JointOperators {
  using Tensors = JointArgumentsOf<typename Backend::Problem>;

  static std::tuple<Tensor, Tensor, Tensor> statistics(Tensor a, Tensor b, OptionalTensor inner_weight,
                                                       OptionalTensor inner_bias, Tensor last_weight,
                                                       OptionalTensor target, OptionalTensor x_label,
                                                       OptionalTensor y_label, OptionalTensor candidate_log_weight,
                                                       bool columns) {
    const Tensors tensors{{},         a,      b,       last_weight, inner_weight,
                          inner_bias, target, x_label, y_label,     candidate_log_weight};
    const auto arguments = Backend::arguments("joint_statistics", tensors, {});
    const Tensor positive = target ? new_doubles(a, {a.size(0)}) : none(a);
    const Tensor negative_lse = new_doubles(a, {a.size(0)});
    const Tensor column_negative_lse = columns ? new_doubles(a, {b.size(0)}) : none(a);
    Backend::statistics(arguments,
                        {doubles(positive), doubles(negative_lse), columns ? doubles(column_negative_lse) : nullptr});
    return {positive, negative_lse, column_negative_lse};
  }

  static Tensor clipped_lse(Tensor a, Tensor b, OptionalTensor inner_weight, OptionalTensor inner_bias,
                            Tensor last_weight, Tensor bias, OptionalTensor target, OptionalTensor x_label,
                            OptionalTensor y_label, OptionalTensor candidate_log_weight, double clip) {
    const Tensors tensors{{},         a,      b,       last_weight, inner_weight,
                          inner_bias, target, x_label, y_label,     candidate_log_weight};
    const auto arguments = Backend::arguments("joint_clipped_lse", tensors, bias);
    check(clip > 0, "joint_clipped_lse", "clip must be positive, but is ", clip);
    const Tensor negative_lse = new_doubles(a, {a.size(0)});
    Backend::statistics(arguments, {nullptr, doubles(negative_lse), nullptr, clip});
    return negative_lse;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fused(
      Tensor a, Tensor b, OptionalTensor inner_weight, OptionalTensor inner_bias, Tensor last_weight,
      OptionalTensor target, OptionalTensor x_label, OptionalTensor y_label, OptionalTensor candidate_log_weight,
      double positive_log_weight, double negative_log_weight, bool global_partition) {
    const Tensors tensors{{},         a,      b,       last_weight, inner_weight,
                          inner_bias, target, x_label, y_label,     candidate_log_weight};
    const auto arguments = Backend::arguments("joint_fused", tensors, {});
    check(target.has_value(), "joint_fused", "target is needed: the column of each row's positive");
    const int64_t n = a.size(0);
    const Tensor positive = new_doubles(a, {n}), negative_lse = new_doubles(a, {n}), loss = new_doubles(a, {});
    const PartitionWeights weights{global_partition ? Partition::kGlobal : Partition::kRows, positive_log_weight,
                                   negative_log_weight};
    const JointGradientTensors g(arguments, true);
    Backend::fused(arguments, weights, {doubles(positive), doubles(negative_lse)}, g.pointers(), doubles(loss));
    return {loss, g.a, g.b, g.inner_weight, g.inner_bias, g.last_weight};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gradient(
      Tensor a, Tensor b, OptionalTensor inner_weight, OptionalTensor inner_bias, Tensor last_weight,
      OptionalTensor target, OptionalTensor x_label, OptionalTensor y_label, OptionalTensor candidate_log_weight,
      Tensor negative_lse, Tensor column_negative_lse, Tensor grad_positive, Tensor grad_negative_lse,
      Tensor grad_column_negative_lse) {
    const Tensors tensors{{},         a,      b,       last_weight, inner_weight,
                          inner_bias, target, x_label, y_label,     candidate_log_weight};
    const auto arguments = Backend::arguments("joint_gradient", tensors, {});
    auto statistic = [&](const char* name, Tensor& t, int64_t length, bool optional) {
      if (!optional || t.numel() > 0) check_vector("joint_gradient", name, t, length, ScalarType::Double, "float64");
      check_device("joint_gradient", name, t, a, "a");
      t = packed(t);
    };
    statistic("negative_lse", negative_lse, a.size(0), false);
    statistic("column_negative_lse", column_negative_lse, b.size(0), true);
    statistic("grad_positive", grad_positive, a.size(0), true);
    statistic("grad_negative_lse", grad_negative_lse, a.size(0), false);
    statistic("grad_column_negative_lse", grad_column_negative_lse, column_negative_lse.numel(), true);
    const UpstreamGradients upstream{doubles_or_null(negative_lse), doubles_or_null(grad_negative_lse),
                                     doubles_or_null(column_negative_lse), doubles_or_null(grad_column_negative_lse),
                                     doubles_or_null(grad_positive)};
    const JointGradientTensors g(arguments, true);
    Backend::gradient(arguments, upstream, g.pointers());
    return {g.a, g.b, g.inner_weight, g.inner_bias, g.last_weight};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> softplus_sum(
      Tensor a, Tensor b, OptionalTensor inner_weight, OptionalTensor inner_bias, Tensor last_weight, Tensor bias,
      OptionalTensor target, OptionalTensor x_label, OptionalTensor y_label, OptionalTensor candidate_log_weight,
      bool gradient) {
    const Tensors tensors{{},         a,      b,       last_weight, inner_weight,
                          inner_bias, target, x_label, y_label,     candidate_log_weight};
    const auto arguments = Backend::arguments("joint_softplus_sum", tensors, bias);
    const Tensor value = new_doubles(a, {}), dbias = new_doubles(a, {});
    const JointGradientTensors g(arguments, gradient);
    const JointGradients pointers = g.pointers();
    Backend::softplus_sum(arguments, doubles(value), gradient ? &pointers : nullptr, doubles(dbias));
    return {value, g.a, g.b, g.inner_weight, g.inner_bias, g.last_weight, dbias};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> ranking(Tensor a, Tensor b, OptionalTensor inner_weight,
                                                            OptionalTensor inner_bias, Tensor last_weight,
                                                            OptionalTensor target, OptionalTensor x_label,
                                                            OptionalTensor y_label,
                                                            OptionalTensor candidate_log_weight) {
    const Tensors tensors{{},         a,      b,       last_weight, inner_weight,
                          inner_bias, target, x_label, y_label,     candidate_log_weight};
    const auto arguments = Backend::arguments("joint_ranking", tensors, {});
    check(target.has_value(), "joint_ranking", "target is needed: the column of each row's positive");
    const int64_t n = a.size(0);
    const Tensor positive = new_doubles(a, {n}), negative_lse = new_doubles(a, {n}), entropy = new_doubles(a, {n});
    const Tensor rank = new_integers(a, {n});
    Backend::ranking(arguments, {doubles(positive), doubles(negative_lse), doubles(entropy), integers(rank)});
    return {positive, negative_lse, entropy, rank};
  }

  static Tensor matrix(Tensor a, Tensor b, OptionalTensor inner_weight, OptionalTensor inner_bias, Tensor last_weight) {
    const auto arguments =
        Backend::arguments("joint_matrix", Tensors{{}, a, b, last_weight, inner_weight, inner_bias}, {});
    const Tensor scores = new_tensor(a, {a.size(0), b.size(0)}, score_type(arguments));
    Backend::matrix(arguments, scores.mutable_data_ptr());
    return scores;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> matrix_gradient(Tensor a, Tensor b,
                                                                            OptionalTensor inner_weight,
                                                                            OptionalTensor inner_bias,
                                                                            Tensor last_weight, Tensor upstream) {
    constexpr const char* op = "joint_matrix_gradient";
    const auto arguments = Backend::arguments(op, Tensors{{}, a, b, last_weight, inner_weight, inner_bias}, {});
    const ScalarType type = score_type(arguments);
    check(upstream.dim() == 2 && upstream.size(0) == a.size(0) && upstream.size(1) == b.size(0) &&
              upstream.scalar_type() == type,
          op, "upstream must be ", type == ScalarType::Double ? "float64" : "float32", " of shape [", a.size(0), ", ",
          b.size(0), "], but has shape ", shape_of(upstream));
    check_device(op, "upstream", upstream, a, "a");
    upstream = packed(upstream);
    const JointGradientTensors g(arguments, true);
    Backend::matrix_gradient(arguments, upstream.const_data_ptr(), g.pointers());
    return {g.a, g.b, g.inner_weight, g.inner_bias, g.last_weight};
  }

  static void implement(torch::stable::detail::StableLibrary& library) {
    library.impl("joint_statistics", TORCH_BOX(&JointOperators::statistics));
    library.impl("joint_clipped_lse", TORCH_BOX(&JointOperators::clipped_lse));
    library.impl("joint_fused", TORCH_BOX(&JointOperators::fused));
    library.impl("joint_gradient", TORCH_BOX(&JointOperators::gradient));
    library.impl("joint_softplus_sum", TORCH_BOX(&JointOperators::softplus_sum));
    library.impl("joint_ranking", TORCH_BOX(&JointOperators::ranking));
    library.impl("joint_matrix", TORCH_BOX(&JointOperators::matrix));
    library.impl("joint_matrix_gradient", TORCH_BOX(&JointOperators::matrix_gradient));
  }

 private:
  static ScalarType score_type(const Tensors& arguments) {
    return arguments.problem.dtype == Dtype::kFloat64 ? ScalarType::Double : ScalarType::Float;
  }
};

}  // namespace mi
