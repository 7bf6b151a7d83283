// What is linear in n and m, on the CPU. On a GPU it is torch's operations, see mi_ext/ops/linear.py.
#include "../cpu/linear.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "dot_arguments.h"

namespace mi {
namespace {

int threads() { return static_cast<int>(torch::stable::get_num_threads()); }

UnitRows unit_problem(const char* op, const char* name, const Tensor& rows, double shortest) {
  check(rows.dim() > 0, op, name, " must have rows, but is 0-dim");
  UnitRows p{1, rows.size(rows.dim() - 1), dtype_of(op, name, rows), shortest, threads()};
  check(p.dtype == Dtype::kFloat32 || p.dtype == Dtype::kFloat64, op, name, " must be float32 or float64");
  for (int64_t k = 0; k + 1 < rows.dim(); k++) p.n *= rows.size(k);
  return p;
}

std::tuple<Tensor, Tensor> unit_rows_cpu(Tensor z, double shortest) {
  const UnitRows p = unit_problem("unit_rows", "z", z, shortest);
  z = packed(z);
  std::vector<int64_t> shape(z.sizes().begin(), z.sizes().end());
  const Tensor unit = new_tensor(z, shape, z.scalar_type());
  shape.back() = 1;
  const Tensor length = new_tensor(z, shape, z.scalar_type());
  unit_rows(p, z.const_data_ptr(), unit.mutable_data_ptr(), length.mutable_data_ptr());
  return {unit, length};
}

Tensor unit_rows_gradient_cpu(Tensor unit, Tensor length, Tensor upstream, double shortest) {
  const char* op = "unit_rows_gradient";
  const UnitRows p = unit_problem(op, "unit", unit, shortest);
  check(length.numel() == p.n && length.scalar_type() == unit.scalar_type(), op,
        "length must be one for each row of unit, of its dtype, but has shape ", shape_of(length));
  const auto shape = unit.sizes(), given = upstream.sizes();
  const bool same_shape = std::equal(given.begin(), given.end(), shape.begin(), shape.end());  // torch 2.10 has no ==
  check(same_shape && upstream.scalar_type() == unit.scalar_type(), op,
        "upstream must have the dtype and the shape of unit, ", shape_of(unit), ", but has shape ", shape_of(upstream));
  check_device(op, "length", length, unit, "unit"), check_device(op, "upstream", upstream, unit, "unit");
  unit = packed(unit), length = packed(length), upstream = packed(upstream);
  const Tensor gradient = new_gradient(unit);
  unit_rows_gradient(p, unit.const_data_ptr(), length.const_data_ptr(), upstream.const_data_ptr(),
                     gradient.mutable_data_ptr());
  return gradient;
}

std::tuple<Tensor, Tensor> kept_gradient_cpu(Tensor x, Tensor y, Tensor scale, Tensor target, Tensor dx, Tensor dy,
                                             Tensor grad_loss, Tensor grad_positive) {
  const char* op = "kept_gradient";
  const auto a = described_arguments<DotProblem>(op, x, y, target, {}, {}, {});
  const DotProblem& p = a.problem;
  check(p.dtype == Dtype::kFloat32 || p.dtype == Dtype::kFloat64, op, "x and y must be float32 or float64");
  check_targets(op, p.exclusions.target, p.n(), p.m());
  check_vector(op, "grad_positive", grad_positive, p.n(), ScalarType::Double, "float64");
  check_device(op, "grad_positive", grad_positive, x);
  Tensor kept[] = {dx, dy}, results[] = {none(x), none(y)};
  KeptRows rows[2];
  for (int side : {0, 1}) {
    if (kept[side].dim() == 1 && kept[side].numel() == 0) continue;
    const Tensor& of = side ? y : x;
    kept[side] = packed(rows_like(op, side ? "dy" : "dx", kept[side], of, side ? "y" : "x"));
    results[side] = new_gradient(of);
    rows[side] = {kept[side].const_data_ptr(), results[side].mutable_data_ptr()};
  }
  kept_gradient({p.queries, p.candidates, p.dim, p.dtype, p.exclusions.target, scalar_value(op, "grad_loss", grad_loss),
                 scalar_value(op, "scale", scale), static_cast<const double*>(grad_positive.const_data_ptr()),
                 grad_positive.stride(0), threads()},
                rows[0], rows[1]);
  return {results[0], results[1]};
}

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) {
  library.impl("unit_rows", TORCH_BOX(&unit_rows_cpu));
  library.impl("unit_rows_gradient", TORCH_BOX(&unit_rows_gradient_cpu));
  library.impl("kept_gradient", TORCH_BOX(&kept_gradient_cpu));
}

}  // namespace
}  // namespace mi
