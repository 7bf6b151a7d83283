// What every operator needs: checks that name the argument, and tensors for results.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "../core/params.h"

namespace mi {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The message reads: <operator>: <what was expected and what came>.
template <class... Parts>
void check(bool condition, const char* op, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  message << "mi_ext::" << op << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

using Shape = torch::headeronly::IntHeaderOnlyArrayRef;

inline std::ostream& write(std::ostream& out, Shape shape) {
  out << "[";
  for (size_t k = 0; k < shape.size(); k++) out << (k ? ", " : "") << shape[k];
  return out << "]";
}

// What a message says of a tensor; put into words only where a check fails.
struct ShapeOf {
  const Tensor& t;
};
inline ShapeOf shape_of(const Tensor& t) { return {t}; }

inline std::ostream& operator<<(std::ostream& out, ShapeOf shape) { return write(out, shape.t.sizes()); }

struct DeviceOf {
  const Tensor& t;
};
inline DeviceOf device_of(const Tensor& t) { return {t}; }

inline std::ostream& operator<<(std::ostream& out, DeviceOf device) {
  if (device.t.is_cpu()) return out << "cpu";
  return out << (device.t.is_cuda() ? "cuda:" : "another device, number ") << device.t.get_device_index();
}

inline Dtype dtype_of(const char* op, const char* name, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat32;
    case ScalarType::Double:
      return Dtype::kFloat64;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    case ScalarType::Half:
      return Dtype::kFloat16;
    default:
      check(false, op, name, " must be float32, float64, bfloat16 or float16");
      return Dtype::kFloat32;
  }
}

inline void check_vector(const char* op, const char* name, const Tensor& t, int64_t length, ScalarType type,
                         const char* type_name) {
  check(t.dim() == 1 && t.size(0) == length && t.scalar_type() == type, op, name, " must be ", type_name, " of shape [",
        length, "], but has shape ", shape_of(t));
}

// x: the tensor that decides, under the name that the operator has for it.
inline void check_device(const char* op, const char* name, const Tensor& t, const Tensor& x,
                         const char* name_of_x = "x") {
  check(t.is_cuda() == x.is_cuda() && t.is_cpu() == x.is_cpu() && t.get_device_index() == x.get_device_index(), op,
        name, " must be on ", device_of(x), ", like ", name_of_x, ", but is on ", device_of(t), ": move it with .to(",
        name_of_x, ".device)");
}

// By torch only where there is something to do: see new_tensor.
inline Tensor packed(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline Tensor rows_contiguous(const Tensor& t) {
  const bool usable = t.size(1) <= 1 || t.stride(1) == 1;
  return usable && (t.size(0) <= 1 || t.stride(0) >= t.size(1)) ? t : packed(t);
}

// A matrix of rows, or a vector as its only row.
inline Features features_of(const Tensor& t) {
  const bool matrix = t.dim() == 2;
  const int64_t rows = matrix ? t.size(0) : 1, columns = matrix ? t.size(1) : t.size(0);
  return {t.const_data_ptr(), rows, rows > 1 ? t.stride(0) : columns};
}

// Vectors beside those of x, one for each.
inline Tensor rows_like(const char* op, const char* name, const Tensor& t, const Tensor& x,
                        const char* name_of_x = "x") {
  check(t.dim() == 2 && t.size(0) == x.size(0) && t.size(1) == x.size(1) && t.scalar_type() == x.scalar_type(), op,
        name, " must have the dtype and the shape of ", name_of_x, ", ", shape_of(x), ", but has shape ", shape_of(t));
  check_device(op, name, t, x, name_of_x);
  return rows_contiguous(t);
}

inline double scalar_value(const char* op, const char* name, const Tensor& t) {
  check(t.dim() == 0 && t.is_cpu() && t.scalar_type() == ScalarType::Double, op, name,
        " must be a 0-dim float64 tensor");
  return *static_cast<const double*>(t.const_data_ptr());
}

// In the words by which training loops know that a smaller batch may do. What went wrong torch tells from 2.13 on.
[[noreturn]] inline void throw_out_of_memory(const Tensor& on, Shape shape) {
  std::ostringstream message;
  message << "mi_ext: no room on " << device_of(on) << " for a tensor of shape ";
  write(message, shape) << ": " << (on.is_cuda() ? "CUDA" : "CPU")
                        << " out of memory. Pass fewer queries or candidates at a time"
                        << (on.is_cuda() ? ", unless an earlier call on the device has failed." : ".");
  throw std::runtime_error(message.str());
}

// Uninitialised. torch::stable::new_empty would look the operator up by its name at every call and box its arguments:
// seven results of a small problem took as long as all the arithmetic on it.
inline Tensor new_tensor(const Tensor& like, Shape shape, ScalarType type) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t k = shape.size(); k-- > 1;) strides[k - 1] = strides[k] * std::max<int64_t>(shape[k], 1);
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  if (aoti_torch_empty_strided(shape.size(), shape.data(), strides.data(), dtype, device_type, like.get_device_index(),
                               &handle) != AOTI_TORCH_SUCCESS)
    throw_out_of_memory(like, shape);
  return Tensor(handle);
}

inline Tensor new_doubles(const Tensor& like, std::initializer_list<int64_t> shape) {
  return new_tensor(like, shape, ScalarType::Double);
}

inline Tensor new_integers(const Tensor& like, std::initializer_list<int64_t> shape) {
  return new_tensor(like, shape, ScalarType::Long);
}

// A result that was not asked for: an empty tensor.
inline Tensor none(const Tensor& like) { return new_doubles(like, {0}); }

// Gradients of 16-bit inputs stay float32: a loss scale applied later must not find them flushed to zero.
inline Tensor new_gradient(const Tensor& of) {
  const bool wide = of.scalar_type() == ScalarType::Double;
  return new_tensor(of, of.sizes(), wide ? ScalarType::Double : ScalarType::Float);
}

inline int64_t* integers(const Tensor& t) { return static_cast<int64_t*>(t.mutable_data_ptr()); }
inline double* doubles(const Tensor& t) { return static_cast<double*>(t.mutable_data_ptr()); }
inline const double* doubles_or_null(const Tensor& t) {
  return t.numel() == 0 ? nullptr : static_cast<const double*>(t.const_data_ptr());
}

}  // namespace mi
