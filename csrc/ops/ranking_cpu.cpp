// Ranks of the positives and entropies of the weights, on the CPU.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../cpu/kernels.h"
#include "dot_arguments.h"

namespace mi {
namespace {

using OptionalTensor = std::optional<Tensor>;

std::tuple<Tensor, Tensor, Tensor, Tensor> dot_ranking(Tensor x, Tensor y, Tensor scale, OptionalTensor target,
                                                       OptionalTensor x_label, OptionalTensor y_label,
                                                       OptionalTensor candidate_log_weight,
                                                       OptionalTensor external_positive) {
  const char* op = "dot_ranking";
  const DotArguments a = dot_arguments(op, x, y, scale, target, x_label, y_label, candidate_log_weight);
  check(target.has_value() != external_positive.has_value(), op, "expected either target or external_positive");
  const int64_t n = x.size(0);
  DotArguments positives = a;
  if (external_positive) {
    positives = dot_arguments(op, x, *external_positive, scale, {}, {}, {}, {});
    check(positives.problem.m() == n, op, "external_positive must have the shape of x, ", shape_of(x), ", but has ",
          shape_of(*external_positive));
  }
  const Tensor positive = target ? new_doubles(x, {n}) : none(x), negative_lse = new_doubles(x, {n});
  const Tensor entropy = new_doubles(x, {n}), rank = new_integers(x, {n});
  cpu_kernels().ranking.rows(a.problem, positives.problem,
                             {doubles(positive), doubles(negative_lse), doubles(entropy), integers(rank)});
  return {positive, negative_lse, entropy, rank};
}

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) { library.impl("dot_ranking", TORCH_BOX(&dot_ranking)); }

}  // namespace
}  // namespace mi
