// The operators on two query sets with the same candidates, once for all backends. A backend offers
//   arguments(op, x, y, scale, bias, exclusions..., tf32)     as of DotOperators, for each of the sets
//   Problem                                                   of both
//   statistics, fused, gradient                               the walks
#pragma once
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../core/importance.h"
#include "dot_arguments.h"

namespace mi {

// Holds the tensors that the problem of a backend points into.
template <class Backend>
struct ImportanceArguments {
  typename Backend::Arguments first, second;
  typename Backend::Problem problem;
};

template <class Backend>
ImportanceArguments<Backend> importance_arguments(const char* op, const Tensor& x1, const Tensor& x2, const Tensor& y,
                                                  const Tensor& scale1, const Tensor& scale2,
                                                  const OptionalTensor& target, const OptionalTensor& x_label,
                                                  const OptionalTensor& y_label,
                                                  const OptionalTensor& candidate_log_weight, bool tf32) {
  check(x1.dim() == 2 && x2.dim() == 2 && x1.size(0) == x2.size(0) && x1.size(1) == x2.size(1), op,
        "x1 and x2 must have the same shape [n, d], but have shapes ", shape_of(x1), " and ", shape_of(x2));
  auto side = [&](const Tensor& x, const Tensor& scale) {
    return Backend::arguments(op, x, y, scale, {}, target, x_label, y_label, candidate_log_weight, tf32);
  };
  ImportanceArguments<Backend> a{side(x1, scale1), side(x2, scale2), {}};
  a.problem = {a.first.problem, a.second.problem};
  return a;
}

// [n] doubles of the statistics, and where they go.
struct StatisticsTensors {
  Tensor positive[2], negative_lse[3];
  ImportanceStatistics pointers;

  StatisticsTensors(const Tensor& x, bool has_target)
      : positive{has_target ? new_doubles(x, {x.size(0)}) : none(x),
                 has_target ? new_doubles(x, {x.size(0)}) : none(x)},
        negative_lse{new_doubles(x, {x.size(0)}), new_doubles(x, {x.size(0)}), new_doubles(x, {x.size(0)})} {
    for (int h = 0; h < 2; h++) pointers.positive[h] = doubles(positive[h]);
    for (int k = 0; k < 3; k++) pointers.negative_lse[k] = doubles(negative_lse[k]);
  }
};

struct GradientTensors {
  Tensor dx1, dx2, dy, dscale1, dscale2;
  ImportanceGradients pointers;

  GradientTensors(const Tensor& x1, const Tensor& x2, const Tensor& y, bool candidate_gradient)
      : dx1(new_gradient(x1)),
        dx2(new_gradient(x2)),
        dy(candidate_gradient ? new_gradient(y) : none(y)),
        dscale1(new_doubles(x1, {})),
        dscale2(new_doubles(x1, {})),
        pointers{{dx1.mutable_data_ptr(), dx2.mutable_data_ptr()},
                 candidate_gradient ? dy.mutable_data_ptr() : nullptr,
                 {doubles(dscale1), doubles(dscale2)}} {}
};

template <class Backend>
struct ImportanceOperators {
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> statistics(Tensor x1, Tensor x2, Tensor y, Tensor scale1,
                                                                       Tensor scale2, OptionalTensor target,
                                                                       OptionalTensor x_label, OptionalTensor y_label,
                                                                       OptionalTensor candidate_log_weight, bool tf32) {
    const auto a = importance_arguments<Backend>("importance_statistics", x1, x2, y, scale1, scale2, target, x_label,
                                                 y_label, candidate_log_weight, tf32);
    const StatisticsTensors t(x1, target.has_value());
    Backend::statistics(a, t.pointers);
    return {t.positive[0], t.positive[1], t.negative_lse[0], t.negative_lse[1], t.negative_lse[2]};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fused(
      Tensor x1, Tensor x2, Tensor y, Tensor scale1, Tensor scale2, OptionalTensor target, OptionalTensor x_label,
      OptionalTensor y_label, OptionalTensor candidate_log_weight, OptionalTensor external_positive1,
      OptionalTensor external_positive2, Tensor log_mass, double weight1, double weight2, double weight_joint,
      bool detach_weights, bool candidate_gradient, bool tf32) {
    const char* op = "importance_fused";
    const auto a = importance_arguments<Backend>(op, x1, x2, y, scale1, scale2, target, x_label, y_label,
                                                 candidate_log_weight, tf32);
    const int64_t n = x1.size(0);
    auto vector = [&](const char* name, const Tensor& t) {
      check_vector(op, name, t, n, ScalarType::Double, "float64");
      check_device(op, name, t, x1);
      return packed(t);
    };
    log_mass = vector("log_mass", log_mass);
    ImportanceObjective objective{{weight1, weight2, weight_joint}, detach_weights, doubles(log_mass), {}};
    check(target.has_value() != external_positive1.has_value() && target.has_value() != external_positive2.has_value(),
          op, "expected either target or external_positive1 and external_positive2");
    if (!target) {
      external_positive1 = vector("external_positive1", *external_positive1);
      external_positive2 = vector("external_positive2", *external_positive2);
      objective.external_positive[0] = doubles(*external_positive1);
      objective.external_positive[1] = doubles(*external_positive2);
    }
    const StatisticsTensors t(x1, target.has_value());
    const GradientTensors g(x1, x2, y, candidate_gradient);
    const Tensor dpositive1 = new_doubles(x1, {n}), dpositive2 = new_doubles(x1, {n});
    double* const positive_gradient[2] = {doubles(dpositive1), doubles(dpositive2)};
    const Tensor loss = new_doubles(x1, {}), terms = new_doubles(x1, {3});
    Backend::fused(a, objective, t.pointers, g.pointers, positive_gradient, doubles(loss), doubles(terms));
    return {loss, terms, g.dx1, g.dx2, g.dy, g.dscale1, g.dscale2, dpositive1, dpositive2};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gradient(
      Tensor x1, Tensor x2, Tensor y, Tensor scale1, Tensor scale2, OptionalTensor target, OptionalTensor x_label,
      OptionalTensor y_label, OptionalTensor candidate_log_weight, Tensor positive1, Tensor positive2,
      Tensor negative_lse1, Tensor negative_lse2, Tensor joint_lse, Tensor grad_positive1, Tensor grad_positive2,
      Tensor grad_negative_lse1, Tensor grad_negative_lse2, Tensor grad_joint_lse, bool detach_weights,
      bool candidate_gradient, bool tf32) {
    const char* op = "importance_gradient";
    const auto a = importance_arguments<Backend>(op, x1, x2, y, scale1, scale2, target, x_label, y_label,
                                                 candidate_log_weight, tf32);
    auto vector = [&](const char* name, Tensor& t, bool optional) {
      if (!optional || t.numel() > 0) check_vector(op, name, t, x1.size(0), ScalarType::Double, "float64");
      check_device(op, name, t, x1);
      t = packed(t);
    };
    vector("positive1", positive1, !target);
    vector("positive2", positive2, !target);
    vector("negative_lse1", negative_lse1, false);
    vector("negative_lse2", negative_lse2, false);
    vector("joint_lse", joint_lse, false);
    vector("grad_positive1", grad_positive1, true);
    vector("grad_positive2", grad_positive2, true);
    vector("grad_negative_lse1", grad_negative_lse1, true);
    vector("grad_negative_lse2", grad_negative_lse2, true);
    vector("grad_joint_lse", grad_joint_lse, true);
    const ImportanceStatistics statistics{{doubles(positive1), doubles(positive2)},
                                          {doubles(negative_lse1), doubles(negative_lse2), doubles(joint_lse)}};
    const ImportanceUpstream up{
        {doubles_or_null(grad_positive1), doubles_or_null(grad_positive2)},
        {doubles_or_null(grad_negative_lse1), doubles_or_null(grad_negative_lse2), doubles_or_null(grad_joint_lse)},
        detach_weights};
    const GradientTensors g(x1, x2, y, candidate_gradient);
    Backend::gradient(a, statistics, up, g.pointers);
    return {g.dx1, g.dx2, g.dy, g.dscale1, g.dscale2};
  }

  static void implement(torch::stable::detail::StableLibrary& library) {
    library.impl("importance_statistics", TORCH_BOX(&ImportanceOperators::statistics));
    library.impl("importance_fused", TORCH_BOX(&ImportanceOperators::fused));
    library.impl("importance_gradient", TORCH_BOX(&ImportanceOperators::gradient));
  }
};

}  // namespace mi
