// What is linear in n and m, on the CPU. On a GPU it is torch's operations, see mi_ext/ops/linear.py.
#include "../cpu/linear.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "dot_arguments.h"

namespace mi {
namespace {

int threads() { return static_cast<int>(torch::stable::get_num_threads()); }

UnitRows unit_problem(const char* op, const char* name, const Tensor& rows, double shortest) {
  check(rows.dim() > 0 && rows.is_cpu(), op, name, " must have rows, on the CPU, but has shape ", shape_of(rows));
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
  check(length.numel() == p.n && length.is_cpu() && length.scalar_type() == unit.scalar_type(), op,
        "length must be one for each row of unit, of its dtype, but has shape ", shape_of(length));
  check(upstream.sizes() == unit.sizes() && upstream.is_cpu() && upstream.scalar_type() == unit.scalar_type(), op,
        "upstream must have the dtype and the shape of unit, ", shape_of(unit), ", but has shape ", shape_of(upstream));
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
  const auto rows = [&](const char* name, const Tensor& kept, const Tensor& of, Tensor& result) -> KeptRows {
    if (kept.dim() == 1 && kept.numel() == 0) return {};
    const Tensor usable = rows_like(op, name, kept, of);
    check(usable.is_contiguous(), op, name, " must be contiguous");
    result = new_gradient(of);
    return {usable.const_data_ptr(), result.mutable_data_ptr()};
  };
  Tensor dx_result = none(x), dy_result = none(y);
  const KeptRows queries = rows("dx", dx, x, dx_result), candidates = rows("dy", dy, y, dy_result);
  kept_gradient({p.queries, p.candidates, p.dim, p.dtype, p.exclusions.target, scalar_value(op, "grad_loss", grad_loss),
                 scalar_value(op, "scale", scale), static_cast<const double*>(grad_positive.const_data_ptr()),
                 grad_positive.stride(0), threads()},
                queries, candidates);
  return {dx_result, dy_result};
}

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) {
  library.impl("unit_rows", TORCH_BOX(&unit_rows_cpu));
  library.impl("unit_rows_gradient", TORCH_BOX(&unit_rows_gradient_cpu));
  library.impl("kept_gradient", TORCH_BOX(&kept_gradient_cpu));
}

}  // namespace
}  // namespace mi
