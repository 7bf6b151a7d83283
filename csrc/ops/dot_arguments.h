// Arguments of the dot operators: checked, made row-contiguous, and described to the kernels of the CPU or of a GPU.
#pragma once
#include <algorithm>
#include <unordered_map>
#include <utility>

#include "checks.h"

namespace mi {

using OptionalTensor = std::optional<Tensor>;

// Holds the tensors that a DotProblem or DeviceDotProblem points into.
template <class Problem>
struct DotArgumentsOf {
  Problem problem;
  Tensor x, y;
  OptionalTensor target, x_label, y_label, candidate_log_weight;
};
using DotArguments = DotArgumentsOf<DotProblem>;

// What needs no look at any value.
template <class Problem>
DotArgumentsOf<Problem> described_arguments(const char* op, const Tensor& x, const Tensor& y,
                                            const OptionalTensor& target, const OptionalTensor& x_label,
                                            const OptionalTensor& y_label, const OptionalTensor& candidate_log_weight) {
  check(x.dim() == 2 && y.dim() == 2 && x.size(1) == y.size(1), op,
        "x [n, d] and y [m, d] must agree in d, but have shapes ", shape_of(x), " and ", shape_of(y));
  check(x.scalar_type() == y.scalar_type(), op, "x and y must have the same dtype");
  check_device(op, "y", y, x);
  check(x_label.has_value() == y_label.has_value(), op, "x_label and y_label come together");
  DotArgumentsOf<Problem> a{{}, rows_contiguous(x), rows_contiguous(y), target, x_label, y_label, candidate_log_weight};
  Problem& p = a.problem;
  p.queries = features_of(a.x), p.candidates = features_of(a.y);
  p.dim = x.size(1);
  check(p.dim > 0, op, "x and y need at least one feature, but d = 0");
  p.dtype = dtype_of(op, "x", x);

  auto pointer = [&]<class T>(OptionalTensor& t, const char* name, int64_t length, ScalarType type,
                              const char* type_name, const T*& out) {
    if (!t) return;
    check_vector(op, name, *t, length, type, type_name);
    check_device(op, name, *t, x);
    t = packed(*t);
    out = static_cast<const T*>(t->const_data_ptr());
  };
  Exclusions& e = p.exclusions;
  pointer(a.target, "target", p.n(), ScalarType::Long, "int64", e.target);
  pointer(a.x_label, "x_label", p.n(), ScalarType::Long, "int64", e.query_label);
  pointer(a.y_label, "y_label", p.m(), ScalarType::Long, "int64", e.candidate_label);
  pointer(a.candidate_log_weight, "candidate_log_weight", p.m(), ScalarType::Double, "float64", e.candidate_log_weight);
  return a;
}

inline void check_targets(const char* op, const int64_t* target, int64_t n, int64_t m) {
  for (int64_t i = 0; i < n; i++)
    check(target[i] >= 0 && target[i] < m, op, "target[", i, "] = ", target[i], ", but there are ", m,
          " candidates: expected 0 <= target < ", m);
}

// float kernels of the CPU compare labels as 32 bits. Labels beyond that are numbered anew, 0, 1, ..., which keeps
// equality.
inline void renumber_labels(DotArguments& a) {
  auto values = [](const Tensor& t) {
    const int64_t* first = static_cast<const int64_t*>(t.const_data_ptr());
    return std::pair(first, first + t.numel());
  };
  auto fits = [&](const Tensor& t) {
    const auto [first, last] = values(t);
    return std::all_of(first, last, [](int64_t label) { return label == static_cast<int32_t>(label); });
  };
  if (!a.x_label || (fits(*a.x_label) && fits(*a.y_label))) return;
  std::unordered_map<int64_t, int64_t> number;
  for (Tensor* labels : {&*a.x_label, &*a.y_label}) {
    const auto [first, last] = values(*labels);
    *labels = new_tensor(*labels, labels->sizes(), ScalarType::Long);
    std::transform(first, last, static_cast<int64_t*>(labels->mutable_data_ptr()),
                   [&](int64_t label) { return number.try_emplace(label, number.size()).first->second; });
  }
  a.problem.exclusions.query_label = values(*a.x_label).first;
  a.problem.exclusions.candidate_label = values(*a.y_label).first;
}

// On the CPU: values are checked too.
inline DotArguments dot_arguments(const char* op, const Tensor& x, const Tensor& y, const Tensor& scale,
                                  const OptionalTensor& target, const OptionalTensor& x_label,
                                  const OptionalTensor& y_label, const OptionalTensor& candidate_log_weight) {
  DotArguments a = described_arguments<DotProblem>(op, x, y, target, x_label, y_label, candidate_log_weight);
  DotProblem& p = a.problem;
  p.scale = scalar_value(op, "scale", scale);
  check(p.scale != 0 && p.scale - p.scale == 0, op, "scale must be finite and not 0, but is ", p.scale);
  p.threads = static_cast<int>(torch::stable::get_num_threads());
  renumber_labels(a);
  if (p.exclusions.target) check_targets(op, p.exclusions.target, p.n(), p.m());
  return a;
}

}  // namespace mi
