// The operators on gathered scores on the CPU: check, allocate, fill the parameters, call the kernel.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "../core/partition.h"
#include "../cpu/kernels.h"
#include "checks.h"

namespace mi {
namespace {

using OptionalTensor = std::optional<Tensor>;

// Holds the tensors that a GatheredProblem points into.
struct GatheredArguments {
  GatheredProblem problem;
  Tensor x, y;
  OptionalTensor index;
};

void check_index(const char* op, const int64_t* index, int64_t n, int64_t m, int64_t rows) {
  bool outside = false;
  for (int64_t k = 0; k < n * m; k++) outside |= static_cast<uint64_t>(index[k]) >= static_cast<uint64_t>(rows);
  if (!outside) return;
  int64_t k = 0;
  while (static_cast<uint64_t>(index[k]) < static_cast<uint64_t>(rows)) k++;
  check(false, op, "index[", k / m, ", ", k % m, "] = ", index[k], ", but the bank has ", rows,
        " rows: expected 0 <= index < ", rows);
}

void take_bank(const char* op, GatheredArguments& a, const Tensor& x, const Tensor& y, const Tensor& index) {
  check(y.dim() == 2 && y.size(1) == x.size(1), op, "y, a bank [V, d], must agree in d with x ", shape_of(x),
        ", but has shape ", shape_of(y));
  check(index.dim() == 2 && index.size(0) == x.size(0) && index.scalar_type() == ScalarType::Long, op,
        "index must be int64 of shape [", x.size(0), ", K - 1], but has shape ", shape_of(index));
  a.y = rows_contiguous(y);
  a.index = torch::stable::contiguous(index);
  GatheredProblem& p = a.problem;
  p.negatives = index.size(1);
  static const int64_t no_index = 0;  // an empty tensor has no data, but is an index all the same
  p.index = index.numel() > 0 ? static_cast<const int64_t*>(a.index->const_data_ptr()) : &no_index;
  p.candidates = {a.y.const_data_ptr(), a.y.size(0), a.y.size(0) > 1 ? a.y.stride(0) : a.y.size(1)};
  check_index(op, p.index, p.n(), p.m(), a.y.size(0));
}

void take_negatives(const char* op, GatheredArguments& a, const Tensor& x, const Tensor& y) {
  check(y.dim() == 3 && y.size(0) == x.size(0) && y.size(2) == x.size(1), op,
        "y must be, without index, the negatives [n, K - 1, d] of x ", shape_of(x), ", but has shape ", shape_of(y));
  a.y = y.size(2) <= 1 || y.stride(2) == 1 ? y : torch::stable::contiguous(y);
  a.problem.negatives = y.size(1);
  a.problem.query_pitch = a.y.stride(0);
  a.problem.candidates = {a.y.const_data_ptr(), y.size(0) * y.size(1), a.y.stride(1)};
}

GatheredArguments gathered_arguments(const char* op, const Tensor& x, const Tensor& y, const OptionalTensor& index,
                                     const Tensor& scale) {
  check(x.dim() == 2 && x.size(1) > 0, op, "x must have shape [n, d], d > 0, but has shape ", shape_of(x));
  check(x.size(0) <= std::numeric_limits<int32_t>::max(), op, "x has too many queries, ", x.size(0));
  check(x.scalar_type() == y.scalar_type(), op, "x and y must have the same dtype");
  GatheredArguments a{{}, rows_contiguous(x), y, index};
  GatheredProblem& p = a.problem;
  p.queries = {a.x.const_data_ptr(), a.x.size(0), a.x.size(0) > 1 ? a.x.stride(0) : a.x.size(1)};
  p.dim = x.size(1);
  p.dtype = dtype_of(op, "x", x);
  p.scale = scalar_value(op, "scale", scale);
  check(p.scale != 0 && p.scale - p.scale == 0, op, "scale must be finite and not 0, but is ", p.scale);
  p.threads = static_cast<int>(torch::stable::get_num_threads());
  if (index)
    take_bank(op, a, x, y, *index);
  else
    take_negatives(op, a, x, y);
  return a;
}

Tensor gathered_lse(Tensor x, Tensor y, OptionalTensor index, Tensor scale) {
  const GatheredArguments a = gathered_arguments("gathered_lse", x, y, index, scale);
  const Tensor negative_lse = new_doubles(x, {x.size(0)});
  cpu_kernels().gathered.log_sum_exp(a.problem, 0, doubles(negative_lse));
  return negative_lse;
}

Tensor gathered_clipped_lse(Tensor x, Tensor y, OptionalTensor index, Tensor scale, Tensor bias, double clip) {
  GatheredArguments a = gathered_arguments("gathered_clipped_lse", x, y, index, scale);
  check(clip > 0, "gathered_clipped_lse", "clip must be positive, but is ", clip);
  a.problem.bias = scalar_value("gathered_clipped_lse", "bias", bias);
  const Tensor negative_lse = new_doubles(x, {x.size(0)});
  cpu_kernels().gathered.log_sum_exp(a.problem, clip, doubles(negative_lse));
  return negative_lse;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gathered_fused(Tensor x, Tensor y, OptionalTensor index,
                                                                  Tensor scale, Tensor positive,
                                                                  double positive_log_weight,
                                                                  double negative_log_weight, bool global_partition,
                                                                  bool candidate_gradient) {
  const GatheredArguments a = gathered_arguments("gathered_fused", x, y, index, scale);
  check_vector("gathered_fused", "positive", positive, x.size(0), ScalarType::Double, "float64");
  positive = torch::stable::contiguous(positive);
  const Tensor loss = new_doubles(x, {}), negative_lse = new_doubles(x, {x.size(0)});
  const Tensor dx = new_gradient(x), dy = candidate_gradient ? new_gradient(y) : none(x), dscale = new_doubles(x, {}),
               dpositive = new_doubles(x, {x.size(0)});
  const PartitionWeights weights{global_partition ? Partition::kGlobal : Partition::kRows, positive_log_weight,
                                 negative_log_weight};
  const DotGradients gradients{dx.mutable_data_ptr(), candidate_gradient ? dy.mutable_data_ptr() : nullptr,
                               doubles(dscale)};
  cpu_kernels().gathered.fused(a.problem, weights, doubles(positive), doubles(negative_lse), gradients,
                               doubles(dpositive));
  *doubles(loss) = partition_loss(x.size(0), doubles(positive), doubles(negative_lse), weights);
  return {loss, dx, dy, dscale, dpositive};
}

std::tuple<Tensor, Tensor, Tensor> gathered_gradient(Tensor x, Tensor y, OptionalTensor index, Tensor scale,
                                                     Tensor negative_lse, Tensor grad_negative_lse,
                                                     bool candidate_gradient) {
  const GatheredArguments a = gathered_arguments("gathered_gradient", x, y, index, scale);
  check_vector("gathered_gradient", "negative_lse", negative_lse, x.size(0), ScalarType::Double, "float64");
  check_vector("gathered_gradient", "grad_negative_lse", grad_negative_lse, x.size(0), ScalarType::Double, "float64");
  negative_lse = torch::stable::contiguous(negative_lse);
  grad_negative_lse = torch::stable::contiguous(grad_negative_lse);
  const Tensor dx = new_gradient(x), dy = candidate_gradient ? new_gradient(y) : none(x), dscale = new_doubles(x, {});
  cpu_kernels().gathered.gradient(
      a.problem, {doubles(negative_lse), doubles(grad_negative_lse)},
      {dx.mutable_data_ptr(), candidate_gradient ? dy.mutable_data_ptr() : nullptr, doubles(dscale)});
  return {dx, dy, dscale};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gathered_softplus_sum(Tensor x, Tensor y, OptionalTensor index,
                                                                         Tensor scale, Tensor bias, bool query_gradient,
                                                                         bool candidate_gradient) {
  GatheredArguments a = gathered_arguments("gathered_softplus_sum", x, y, index, scale);
  a.problem.bias = scalar_value("gathered_softplus_sum", "bias", bias);
  const Tensor value = new_doubles(x, {}), dscale = new_doubles(x, {}), dbias = new_doubles(x, {});
  const Tensor dx = query_gradient ? new_gradient(x) : none(x), dy = candidate_gradient ? new_gradient(y) : none(x);
  cpu_kernels().gathered.softplus_sum(
      a.problem, doubles(value),
      {query_gradient ? dx.mutable_data_ptr() : nullptr, candidate_gradient ? dy.mutable_data_ptr() : nullptr,
       doubles(dscale), doubles(dbias)});
  return {value, dx, dy, dscale, dbias};
}

std::tuple<Tensor, Tensor, Tensor> gathered_ranking(Tensor x, Tensor y, OptionalTensor index, Tensor scale,
                                                    Tensor positive) {
  const GatheredArguments a = gathered_arguments("gathered_ranking", x, y, index, scale);
  const int64_t n = x.size(0), d = x.size(1);
  check(positive.dim() == 2 && positive.size(0) == n && positive.size(1) == d &&
            positive.scalar_type() == x.scalar_type(),
        "gathered_ranking", "positive must have the dtype and the shape of x, ", shape_of(x), ", but has shape ",
        shape_of(positive));
  positive = rows_contiguous(positive);
  const Tensor negative_lse = new_doubles(x, {n}), entropy = new_doubles(x, {n}), rank = new_integers(x, {n});
  cpu_kernels().gathered.ranking(a.problem, {positive.const_data_ptr(), n, n > 1 ? positive.stride(0) : d},
                                 {nullptr, doubles(negative_lse), doubles(entropy), integers(rank)});
  return {negative_lse, entropy, rank};
}

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) {
  library.impl("gathered_lse", TORCH_BOX(&gathered_lse));
  library.impl("gathered_clipped_lse", TORCH_BOX(&gathered_clipped_lse));
  library.impl("gathered_fused", TORCH_BOX(&gathered_fused));
  library.impl("gathered_gradient", TORCH_BOX(&gathered_gradient));
  library.impl("gathered_softplus_sum", TORCH_BOX(&gathered_softplus_sum));
  library.impl("gathered_ranking", TORCH_BOX(&gathered_ranking));
}

}  // namespace
}  // namespace mi
