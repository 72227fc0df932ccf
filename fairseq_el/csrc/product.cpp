#include "product.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <cmath>
#include <cstring>

namespace fairseq_el {
namespace {

using Scalars = c10::List<c10::optional<at::Scalar>>;

Tensor multiply_packed(const Product& product, const Tensor& x, const char* activation) {
  static const auto operation =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
          .typed<Tensor(const Tensor&, const Tensor&, const c10::optional<Tensor>&, c10::string_view, Scalars,
                        c10::optional<c10::string_view>)>();
  const c10::optional<Tensor> bias = product.bias.defined() ? c10::optional<Tensor>(product.bias) : c10::nullopt;
  const bool is_gelu = std::strcmp(activation, "gelu") == 0;
  return operation.call(x, product.packed, bias, activation, Scalars(), is_gelu ? "none" : "");
}

// y_ij = s_i t_j (a_i . w_j) + b_j of whole numbers; see fairseq_el/ops/int8_linear.py.
Tensor multiply_in_int8(const Product& product, const Tensor& x) {
  static const auto operation =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("onednn::qlinear_pointwise", "")
          .typed<Tensor(Tensor, double, int64_t, Tensor, Tensor, Tensor, c10::optional<Tensor>, double, int64_t,
                        c10::optional<at::ScalarType>, c10::string_view, Scalars, c10::string_view)>();
  const Tensor numbers = at::empty(x.sizes(), at::kByte), scales = at::empty({x.size(0), 1}, at::kFloat);
  const float* from = data<const float>(x);
  in_parallel(x.size(0), 4 * x.size(1), [&](int64_t begin, int64_t end) {
    kernels<float>().to_int8(from + begin * x.size(1), end - begin, x.size(1),
                             data<uint8_t>(numbers) + begin * x.size(1), data<float>(scales) + begin);
  });
  Tensor y = operation.call(numbers, 1.0, 128, product.in_int8, product.scales, product.zeros, c10::nullopt, 1.0, 0,
                            at::kFloat, "none", Scalars(), "");
  return product.bias.defined() ? at::addcmul_out(y, product.bias, y, scales) : y.mul_(scales);
}

template <class T>
void activate(Tensor& x, const std::string& name) {
  if (name == "relu") {
    x.relu_();
  } else if (name == "relu_squared") {
    x = x.relu_().pow_(2);
  } else if (name == "gelu") {  // fairseq's rounds float64 to float32
    x = std::is_same_v<T, double> ? at::gelu(x.to(at::kFloat)).to(at::kDouble) : at::gelu(x);
  } else if (name == "gelu_accurate") {
    const Tensor inner = at::pow(x, 3).mul_(0.044715).add_(x).mul_(std::sqrt(2 / M_PI));
    x = inner.tanh_().add_(1).mul_(x.mul_(0.5));
  } else if (name == "tanh") {
    x.tanh_();
  } else if (name == "swish") {
    at::silu_(x);
  } else {
    TORCH_CHECK(name == "linear", "no activation is called ", name);
  }
}

}  // namespace

template <class T>
Tensor multiply(const Product& product, const Tensor& x, const std::string& activation) {
  const int64_t rows = x.size(0), in = x.size(1);
  Tensor y;
  if (product.in_int8.defined()) {
    y = multiply_in_int8(product, x);
  } else if (product.packed.defined() && rows >= product.packed_from) {
    if (product.fuses && (activation == "relu" || activation == "gelu"))
      return multiply_packed(product, x, activation.c_str());
    y = multiply_packed(product, x, "none");
  } else if (rows <= kernels<T>().most_few_rows) {
    const int64_t out = product.weight.size(0);
    y = empty<T>({rows, out});
    const T* bias = product.bias.defined() ? data<const T>(product.bias) : nullptr;
    const T *from = data<const T>(x), *weight = data<const T>(product.weight);
    T* to = data<T>(y);
    in_parallel(out, rows * in, [&](int64_t begin, int64_t end) {
      kernels<T>().few_rows(from, rows, weight, bias, in, out, begin, end, to);
    });
  } else {
    y = product.bias.defined() ? at::addmm(product.bias, x, product.weight.t()) : at::mm(x, product.weight.t());
  }
  activate<T>(y, activation);
  return y;
}

template Tensor multiply<float>(const Product&, const Tensor&, const std::string&);
template Tensor multiply<double>(const Product&, const Tensor&, const std::string&);
template Tensor multiply<bfloat16>(const Product&, const Tensor&, const std::string&);

}  // namespace fairseq_el
