// The dot operators on the CPU: check, allocate, fill the parameters, call the kernel.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../core/partition.h"
#include "../cpu/kernels.h"
#include "dot_arguments.h"

namespace mi {
namespace {

using OptionalTensor = std::optional<Tensor>;

std::tuple<Tensor, Tensor, Tensor> dot_statistics(Tensor x, Tensor y, Tensor scale, OptionalTensor target,
                                                  OptionalTensor x_label, OptionalTensor y_label,
                                                  OptionalTensor candidate_log_weight, bool columns) {
  const DotArguments a = dot_arguments("dot_statistics", x, y, scale, target, x_label, y_label, candidate_log_weight);
  const Tensor positive = target ? new_doubles(x, {x.size(0)}) : none(x);
  const Tensor negative_lse = new_doubles(x, {x.size(0)});
  const Tensor column_negative_lse = columns ? new_doubles(x, {y.size(0)}) : none(x);
  const DotStatistics statistics{doubles(positive), doubles(negative_lse),
                                 columns ? doubles(column_negative_lse) : nullptr};
  cpu_kernels().dot.statistics(a.problem, statistics);
  return {positive, negative_lse, column_negative_lse};
}

Tensor dot_clipped_lse(Tensor x, Tensor y, Tensor scale, Tensor bias, OptionalTensor target, OptionalTensor x_label,
                       OptionalTensor y_label, OptionalTensor candidate_log_weight, double clip) {
  DotArguments a = dot_arguments("dot_clipped_lse", x, y, scale, target, x_label, y_label, candidate_log_weight);
  check(clip > 0, "dot_clipped_lse", "clip must be positive, but is ", clip);
  a.problem.bias = scalar_value("dot_clipped_lse", "bias", bias);
  const Tensor positive = new_doubles(x, {x.size(0)}), negative_lse = new_doubles(x, {x.size(0)});
  cpu_kernels().dot.statistics(a.problem, {doubles(positive), doubles(negative_lse), nullptr, clip});
  return negative_lse;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dot_fused(
    Tensor x, Tensor y, Tensor scale, OptionalTensor target, OptionalTensor x_label, OptionalTensor y_label,
    OptionalTensor candidate_log_weight, OptionalTensor external_positive, double positive_log_weight,
    double negative_log_weight, bool global_partition, bool candidate_gradient) {
  const DotArguments a = dot_arguments("dot_fused", x, y, scale, target, x_label, y_label, candidate_log_weight);
  check(target.has_value() != external_positive.has_value(), "dot_fused",
        "expected either target or external_positive");
  if (external_positive) {
    check_vector("dot_fused", "external_positive", *external_positive, x.size(0), ScalarType::Double, "float64");
    external_positive = torch::stable::contiguous(*external_positive);
  }
  const Tensor positive = target ? new_doubles(x, {x.size(0)}) : none(x);
  const Tensor negative_lse = new_doubles(x, {x.size(0)}), dpositive = new_doubles(x, {x.size(0)});
  const Tensor dx = new_gradient(x), dy = candidate_gradient ? new_gradient(y) : none(x), dscale = new_doubles(x, {});
  const PartitionWeights weights{global_partition ? Partition::kGlobal : Partition::kRows, positive_log_weight,
                                 negative_log_weight};
  const DotGradients gradients{dx.mutable_data_ptr(), candidate_gradient ? dy.mutable_data_ptr() : nullptr,
                               doubles(dscale)};
  cpu_kernels().dot.fused(a.problem, weights, external_positive ? doubles(*external_positive) : nullptr,
                          {doubles(positive), doubles(negative_lse)}, gradients, doubles(dpositive));
  const Tensor loss = new_doubles(x, {});
  *doubles(loss) = partition_loss(x.size(0), external_positive ? doubles(*external_positive) : doubles(positive),
                                  doubles(negative_lse), weights);
  return {loss, positive, dx, dy, dscale, dpositive};
}

std::tuple<Tensor, Tensor, Tensor> dot_gradient(Tensor x, Tensor y, Tensor scale, OptionalTensor target,
                                                OptionalTensor x_label, OptionalTensor y_label,
                                                OptionalTensor candidate_log_weight, Tensor positive,
                                                Tensor negative_lse, Tensor column_negative_lse, Tensor grad_positive,
                                                Tensor grad_negative_lse, Tensor grad_column_negative_lse,
                                                bool candidate_gradient) {
  const DotArguments a = dot_arguments("dot_gradient", x, y, scale, target, x_label, y_label, candidate_log_weight);
  auto statistic = [](const char* name, Tensor& t, int64_t length, bool optional) {
    if (!optional || t.numel() > 0) check_vector("dot_gradient", name, t, length, ScalarType::Double, "float64");
    t = torch::stable::contiguous(t);
  };
  statistic("positive", positive, x.size(0), !target);
  statistic("negative_lse", negative_lse, x.size(0), false);
  statistic("column_negative_lse", column_negative_lse, y.size(0), true);
  statistic("grad_positive", grad_positive, x.size(0), true);
  statistic("grad_negative_lse", grad_negative_lse, x.size(0), false);
  statistic("grad_column_negative_lse", grad_column_negative_lse, column_negative_lse.numel(), true);
  const Tensor dx = new_gradient(x), dy = candidate_gradient ? new_gradient(y) : none(x), dscale = new_doubles(x, {});
  const UpstreamGradients upstream{doubles_or_null(negative_lse), doubles_or_null(grad_negative_lse),
                                   doubles_or_null(column_negative_lse), doubles_or_null(grad_column_negative_lse),
                                   doubles_or_null(grad_positive)};
  cpu_kernels().dot.gradient(
      a.problem, upstream, doubles_or_null(positive),
      {dx.mutable_data_ptr(), candidate_gradient ? dy.mutable_data_ptr() : nullptr, doubles(dscale)});
  return {dx, dy, dscale};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dot_softplus_sum(
    Tensor x, Tensor y, Tensor scale, Tensor bias, OptionalTensor target, OptionalTensor x_label,
    OptionalTensor y_label, OptionalTensor candidate_log_weight, bool query_gradient, bool candidate_gradient) {
  DotArguments a = dot_arguments("dot_softplus_sum", x, y, scale, target, x_label, y_label, candidate_log_weight);
  a.problem.bias = scalar_value("dot_softplus_sum", "bias", bias);
  const Tensor value = new_doubles(x, {}), positive = target ? new_doubles(x, {x.size(0)}) : none(x);
  const Tensor dx = query_gradient ? new_gradient(x) : none(x), dy = candidate_gradient ? new_gradient(y) : none(x);
  const Tensor dscale = new_doubles(x, {}), dbias = new_doubles(x, {});
  const DotGradients gradients{query_gradient ? dx.mutable_data_ptr() : nullptr,
                               candidate_gradient ? dy.mutable_data_ptr() : nullptr, doubles(dscale), doubles(dbias)};
  cpu_kernels().dot.softplus_sum(a.problem, doubles(positive), doubles(value), gradients);
  return {value, positive, dx, dy, dscale, dbias};
}

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) {
  library.impl("dot_statistics", TORCH_BOX(&dot_statistics));
  library.impl("dot_clipped_lse", TORCH_BOX(&dot_clipped_lse));
  library.impl("dot_fused", TORCH_BOX(&dot_fused));
  library.impl("dot_gradient", TORCH_BOX(&dot_gradient));
  library.impl("dot_softplus_sum", TORCH_BOX(&dot_softplus_sum));
}

}  // namespace
}  // namespace mi
