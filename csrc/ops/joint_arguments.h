// Arguments of the joint operators: checked, made row-contiguous, and described to the kernels of the CPU or of a GPU.
#pragma once
#include "dot_arguments.h"

namespace mi {

// Holds the tensors that a JointProblem or DeviceJointProblem points into.
template <class Problem>
struct JointArgumentsOf {
  Problem problem;
  Tensor a, b, last_weight;
  OptionalTensor inner_weight = {}, inner_bias = {};
  OptionalTensor target = {}, x_label = {}, y_label = {}, candidate_log_weight = {};
};

template <class Problem>
void set_joint_weights(const char* op, JointArgumentsOf<Problem>& arguments) {
  Problem& p = arguments.problem;
  int64_t last = p.hidden;
  auto like_a = [&](const char* name, const Tensor& t) {
    check(t.scalar_type() == arguments.a.scalar_type(), op, name, " must have the dtype of a and b");
    check_device(op, name, t, arguments.a, "a");
  };
  check(arguments.inner_weight.has_value() == arguments.inner_bias.has_value(), op,
        "inner_weight and inner_bias come together");
  if (arguments.inner_weight) {
    Tensor &weight = *arguments.inner_weight, &bias = *arguments.inner_bias;
    check(weight.dim() == 2 && weight.size(0) > 0 && weight.size(1) == p.hidden, op,
          "inner_weight must have shape [h1, h = ", p.hidden, "] with h1 > 0, but has ", shape_of(weight));
    last = weight.size(0);
    check(bias.dim() == 1 && bias.size(0) == last, op, "inner_bias must have shape [", last, "], but has ",
          shape_of(bias));
    like_a("inner_weight", weight), like_a("inner_bias", bias);
    weight = rows_contiguous(weight), bias = packed(bias);
    p.inner_weight = features_of(weight), p.inner_bias = features_of(bias);
  }
  Tensor& w = arguments.last_weight;
  check(w.dim() == 1 && w.size(0) == last, op, "last_weight must have shape [", last, "], but has ", shape_of(w));
  like_a("last_weight", w);
  w = packed(w);
  p.last_weight = features_of(w);
}

template <class Problem>
void set_joint_exclusions(const char* op, JointArgumentsOf<Problem>& arguments) {
  Problem& p = arguments.problem;
  Exclusions& e = p.exclusions;
  auto pointer = [&]<class T>(OptionalTensor& t, const char* name, int64_t length, ScalarType type,
                              const char* type_name, const T*& out) {
    if (!t) return;
    check_vector(op, name, *t, length, type, type_name);
    check_device(op, name, *t, arguments.a, "a");
    t = packed(*t);
    out = static_cast<const T*>(t->const_data_ptr());
  };
  check(arguments.x_label.has_value() == arguments.y_label.has_value(), op, "x_label and y_label come together");
  pointer(arguments.target, "target", p.n(), ScalarType::Long, "int64", e.target);
  pointer(arguments.x_label, "x_label", p.n(), ScalarType::Long, "int64", e.query_label);
  pointer(arguments.y_label, "y_label", p.m(), ScalarType::Long, "int64", e.candidate_label);
  pointer(arguments.candidate_log_weight, "candidate_log_weight", p.m(), ScalarType::Double, "float64",
          e.candidate_log_weight);
}

// Fills `problem` from the tensors, which are already in place; what needs no look at any value.
template <class Problem>
void describe(const char* op, JointArgumentsOf<Problem>& arguments) {
  Problem& p = arguments.problem;
  Tensor &a = arguments.a, &b = arguments.b;
  check(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(1), op,
        "a [n, h] and b [m, h] must agree in h, but have shapes ", shape_of(a), " and ", shape_of(b));
  check(a.scalar_type() == b.scalar_type(), op, "a and b must have the same dtype");
  check_device(op, "b", b, a, "a");
  p.dtype = dtype_of(op, "a", a);
  p.hidden = a.size(1);
  check(p.hidden > 0, op, "a and b need at least one hidden unit, but h = 0");
  a = rows_contiguous(a), b = rows_contiguous(b);
  p.queries = features_of(a), p.candidates = features_of(b);
  set_joint_weights(op, arguments);
  set_joint_exclusions(op, arguments);
}

}  // namespace mi
