// The joint operators on the CPU: check, allocate, fill the parameters, call the kernel.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../core/partition.h"
#include "../cpu/kernels.h"
#include "joint_arguments.h"

namespace mi {
namespace {

using OptionalTensor = std::optional<Tensor>;

// Gradients of a, b, W1, b1 and w; empty ones for what is not asked for or not there.
struct GradientTensors {
  Tensor a, b, inner_weight, inner_bias, last_weight;

  GradientTensors(const JointArguments& of, bool wanted)
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

JointArguments arguments_of(const char* op, const Tensor& a, const Tensor& b, const OptionalTensor& inner_weight,
                            const OptionalTensor& inner_bias, const Tensor& last_weight,
                            const OptionalTensor& target = {}, const OptionalTensor& x_label = {},
                            const OptionalTensor& y_label = {}, const OptionalTensor& candidate_log_weight = {}) {
  JointArguments arguments{{},         a,      b,       last_weight, inner_weight,
                           inner_bias, target, x_label, y_label,     candidate_log_weight};
  complete(op, arguments);
  return arguments;
}

std::tuple<Tensor, Tensor, Tensor> joint_statistics(Tensor a, Tensor b, OptionalTensor inner_weight,
                                                    OptionalTensor inner_bias, Tensor last_weight,
                                                    OptionalTensor target, OptionalTensor x_label,
                                                    OptionalTensor y_label, OptionalTensor candidate_log_weight,
                                                    bool columns) {
  const JointArguments arguments = arguments_of("joint_statistics", a, b, inner_weight, inner_bias, last_weight, target,
                                                x_label, y_label, candidate_log_weight);
  const Tensor positive = target ? new_doubles(a, {a.size(0)}) : none(a);
  const Tensor negative_lse = new_doubles(a, {a.size(0)});
  const Tensor column_negative_lse = columns ? new_doubles(a, {b.size(0)}) : none(a);
  cpu_kernels().joint.statistics(
      arguments.problem, {doubles(positive), doubles(negative_lse), columns ? doubles(column_negative_lse) : nullptr});
  return {positive, negative_lse, column_negative_lse};
}

Tensor joint_clipped_lse(Tensor a, Tensor b, OptionalTensor inner_weight, OptionalTensor inner_bias, Tensor last_weight,
                         Tensor bias, OptionalTensor target, OptionalTensor x_label, OptionalTensor y_label,
                         OptionalTensor candidate_log_weight, double clip) {
  JointArguments arguments = arguments_of("joint_clipped_lse", a, b, inner_weight, inner_bias, last_weight, target,
                                          x_label, y_label, candidate_log_weight);
  check(clip > 0, "joint_clipped_lse", "clip must be positive, but is ", clip);
  arguments.problem.bias = scalar_value("joint_clipped_lse", "bias", bias);
  const Tensor negative_lse = new_doubles(a, {a.size(0)});
  cpu_kernels().joint.statistics(arguments.problem, {nullptr, doubles(negative_lse), nullptr, clip});
  return negative_lse;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> joint_fused(
    Tensor a, Tensor b, OptionalTensor inner_weight, OptionalTensor inner_bias, Tensor last_weight,
    OptionalTensor target, OptionalTensor x_label, OptionalTensor y_label, OptionalTensor candidate_log_weight,
    double positive_log_weight, double negative_log_weight, bool global_partition) {
  const JointArguments arguments = arguments_of("joint_fused", a, b, inner_weight, inner_bias, last_weight, target,
                                                x_label, y_label, candidate_log_weight);
  check(target.has_value(), "joint_fused", "target is needed: the column of each row's positive");
  const int64_t n = a.size(0);
  const Tensor positive = new_doubles(a, {n}), negative_lse = new_doubles(a, {n}), loss = new_doubles(a, {});
  const PartitionWeights weights{global_partition ? Partition::kGlobal : Partition::kRows, positive_log_weight,
                                 negative_log_weight};
  const GradientTensors g(arguments, true);
  cpu_kernels().joint.fused(arguments.problem, weights, {doubles(positive), doubles(negative_lse)}, g.pointers());
  *doubles(loss) = partition_loss(n, doubles(positive), doubles(negative_lse), weights);
  return {loss, g.a, g.b, g.inner_weight, g.inner_bias, g.last_weight};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> joint_gradient(
    Tensor a, Tensor b, OptionalTensor inner_weight, OptionalTensor inner_bias, Tensor last_weight,
    OptionalTensor target, OptionalTensor x_label, OptionalTensor y_label, OptionalTensor candidate_log_weight,
    Tensor negative_lse, Tensor column_negative_lse, Tensor grad_positive, Tensor grad_negative_lse,
    Tensor grad_column_negative_lse) {
  const JointArguments arguments = arguments_of("joint_gradient", a, b, inner_weight, inner_bias, last_weight, target,
                                                x_label, y_label, candidate_log_weight);
  auto statistic = [](const char* name, Tensor& t, int64_t length, bool optional) {
    if (!optional || t.numel() > 0) check_vector("joint_gradient", name, t, length, ScalarType::Double, "float64");
    t = torch::stable::contiguous(t);
  };
  statistic("negative_lse", negative_lse, a.size(0), false);
  statistic("column_negative_lse", column_negative_lse, b.size(0), true);
  statistic("grad_positive", grad_positive, a.size(0), true);
  statistic("grad_negative_lse", grad_negative_lse, a.size(0), false);
  statistic("grad_column_negative_lse", grad_column_negative_lse, column_negative_lse.numel(), true);
  const UpstreamGradients upstream{doubles_or_null(negative_lse), doubles_or_null(grad_negative_lse),
                                   doubles_or_null(column_negative_lse), doubles_or_null(grad_column_negative_lse),
                                   doubles_or_null(grad_positive)};
  const GradientTensors g(arguments, true);
  cpu_kernels().joint.gradient(arguments.problem, upstream, g.pointers());
  return {g.a, g.b, g.inner_weight, g.inner_bias, g.last_weight};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> joint_softplus_sum(
    Tensor a, Tensor b, OptionalTensor inner_weight, OptionalTensor inner_bias, Tensor last_weight, Tensor bias,
    OptionalTensor target, OptionalTensor x_label, OptionalTensor y_label, OptionalTensor candidate_log_weight,
    bool gradient) {
  JointArguments arguments = arguments_of("joint_softplus_sum", a, b, inner_weight, inner_bias, last_weight, target,
                                          x_label, y_label, candidate_log_weight);
  arguments.problem.bias = scalar_value("joint_softplus_sum", "bias", bias);
  const Tensor value = new_doubles(a, {}), dbias = new_doubles(a, {});
  const GradientTensors g(arguments, gradient);
  const JointGradients pointers = g.pointers();
  cpu_kernels().joint.softplus_sum(arguments.problem, doubles(value), gradient ? &pointers : nullptr, doubles(dbias));
  return {value, g.a, g.b, g.inner_weight, g.inner_bias, g.last_weight, dbias};
}

Tensor joint_matrix(Tensor a, Tensor b, OptionalTensor inner_weight, OptionalTensor inner_bias, Tensor last_weight) {
  const JointArguments arguments = arguments_of("joint_matrix", a, b, inner_weight, inner_bias, last_weight);
  const bool wide = arguments.problem.dtype == Dtype::kFloat64;
  const Tensor scores =
      torch::stable::new_empty(a, {a.size(0), b.size(0)}, wide ? ScalarType::Double : ScalarType::Float);
  cpu_kernels().joint.matrix(arguments.problem, scores.mutable_data_ptr());
  return scores;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> joint_matrix_gradient(Tensor a, Tensor b,
                                                                         OptionalTensor inner_weight,
                                                                         OptionalTensor inner_bias, Tensor last_weight,
                                                                         Tensor upstream) {
  const JointArguments arguments = arguments_of("joint_matrix_gradient", a, b, inner_weight, inner_bias, last_weight);
  const bool wide = arguments.problem.dtype == Dtype::kFloat64;
  check(upstream.dim() == 2 && upstream.size(0) == a.size(0) && upstream.size(1) == b.size(0) &&
            upstream.scalar_type() == (wide ? ScalarType::Double : ScalarType::Float),
        "joint_matrix_gradient", "upstream must be ", wide ? "float64" : "float32", " of shape [", a.size(0), ", ",
        b.size(0), "], but has shape ", shape_of(upstream));
  upstream = torch::stable::contiguous(upstream);
  const GradientTensors g(arguments, true);
  cpu_kernels().joint.matrix_gradient(arguments.problem, upstream.const_data_ptr(), g.pointers());
  return {g.a, g.b, g.inner_weight, g.inner_bias, g.last_weight};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> joint_ranking(Tensor a, Tensor b, OptionalTensor inner_weight,
                                                         OptionalTensor inner_bias, Tensor last_weight,
                                                         OptionalTensor target, OptionalTensor x_label,
                                                         OptionalTensor y_label, OptionalTensor candidate_log_weight) {
  const JointArguments arguments = arguments_of("joint_ranking", a, b, inner_weight, inner_bias, last_weight, target,
                                                x_label, y_label, candidate_log_weight);
  check(target.has_value(), "joint_ranking", "target is needed: the column of each row's positive");
  const int64_t n = a.size(0);
  const Tensor positive = new_doubles(a, {n}), negative_lse = new_doubles(a, {n}), entropy = new_doubles(a, {n});
  const Tensor rank = new_integers(a, {n});
  cpu_kernels().joint.ranking(arguments.problem,
                              {doubles(positive), doubles(negative_lse), doubles(entropy), integers(rank)});
  return {positive, negative_lse, entropy, rank};
}

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) {
  library.impl("joint_statistics", TORCH_BOX(&joint_statistics));
  library.impl("joint_clipped_lse", TORCH_BOX(&joint_clipped_lse));
  library.impl("joint_fused", TORCH_BOX(&joint_fused));
  library.impl("joint_gradient", TORCH_BOX(&joint_gradient));
  library.impl("joint_softplus_sum", TORCH_BOX(&joint_softplus_sum));
  library.impl("joint_matrix", TORCH_BOX(&joint_matrix));
  library.impl("joint_matrix_gradient", TORCH_BOX(&joint_matrix_gradient));
  library.impl("joint_ranking", TORCH_BOX(&joint_ranking));
}

}  // namespace
}  // namespace mi
