// Argument checks that name the argument, what was expected and what came, and the tensors as kernels want
// them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

namespace genet {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Throws with the message parts joined, which Python sees as a RuntimeError.
template <typename... Parts>
void check(bool holds, const Parts&... parts) {
  if (holds) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    default: return torch::headeronly::toString(dtype);
  }
}

template <typename Sizes>
std::string shape_name(const Sizes& sizes) {
  std::string text = "[";
  for (int64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

inline std::string device_name(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  return tensor.is_cuda() ? "cuda:" + std::to_string(tensor.get_device_index()) : "another device";
}

// For example "float32 [4, 96] on cuda:0".
inline std::string describe(const Tensor& tensor) {
  return dtype_name(tensor.scalar_type()) + " " + shape_name(tensor.sizes()) + " on " + device_name(tensor);
}

// The leading tensor of an operator: floating point with two dimensions. The other arguments are held against
// it.
inline void check_leading(const Tensor& tensor, const char* name, const char* shape) {
  const ScalarType dtype = tensor.scalar_type();
  check((dtype == ScalarType::Float || dtype == ScalarType::Double) && tensor.dim() == 2, name,
        ": expected float32 or float64 ", shape, ", got ", describe(tensor));
}

// Checks dtype, shape and that the tensor is where `leading` is.
inline void check_tensor(const Tensor& tensor, const char* name, ScalarType dtype,
                         std::initializer_list<int64_t> shape, const Tensor& leading) {
  bool same_shape = tensor.dim() == int64_t(shape.size());
  for (int64_t i = 0; same_shape && i < tensor.dim(); ++i) same_shape = tensor.size(i) == shape.begin()[i];
  const std::string device = device_name(leading);
  check(tensor.scalar_type() == dtype && same_shape && device_name(tensor) == device, name, ": expected ",
        dtype_name(dtype), " ", shape_name(shape), " on ", device, ", got ", describe(tensor));
}

// A checked input as a plain array. A tensor with gaps is copied; the copy lives as long as this object.
class Input {
 public:
  explicit Input(const Tensor& tensor) : dense_(torch::stable::contiguous(tensor)) {}
  template <typename T>
  const T* data() const {
    return static_cast<const T*>(dense_.const_data_ptr());
  }

 private:
  Tensor dense_;
};

// An optional input; its pointer is null where it was not given.
class OptionalInput {
 public:
  explicit OptionalInput(const std::optional<Tensor>& tensor) {
    if (tensor) input_.emplace(*tensor);
  }
  template <typename T>
  const T* data() const {
    return input_ ? input_->template data<T>() : nullptr;
  }

 private:
  std::optional<Input> input_;
};

// A tensor that the kernel changes. One with gaps is worked on as a copy, which write_back() copies into it.
class InPlace {
 public:
  explicit InPlace(const Tensor& tensor) : tensor_(tensor), dense_(torch::stable::contiguous(tensor)) {}
  template <typename T>
  T* data() const {
    return static_cast<T*>(dense_.mutable_data_ptr());
  }
  void write_back() {
    if (!tensor_.is_contiguous()) torch::stable::copy_(tensor_, dense_);
  }

 private:
  Tensor tensor_, dense_;
};

}  // namespace genet
