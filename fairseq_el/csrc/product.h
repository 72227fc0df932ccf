// Products with a model's weights, each in the way that is fastest, and what all of them share: types and threads.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "kernels.h"
#include "model.h"

namespace fairseq_el {

template <class T>
struct ScalarTypeOf;
template <>
struct ScalarTypeOf<float> {
  static constexpr auto value = at::kFloat;
};
template <>
struct ScalarTypeOf<double> {
  static constexpr auto value = at::kDouble;
};
template <>
struct ScalarTypeOf<bfloat16> {
  static constexpr auto value = at::kBFloat16;
};

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <class T>
Tensor empty(at::IntArrayRef shape) {
  return at::empty(shape, at::TensorOptions().dtype(ScalarTypeOf<T>::value));
}

constexpr int64_t kWorthAThread = 1 << 16;  // multiplications; below, waking another thread takes longer

// Calls work(begin, end) for parts of [0, count), on several threads where `size`, multiplications each, makes it pay.
template <class F>
void in_parallel(int64_t count, int64_t size, F work) {
  at::parallel_for(0, count, std::max<int64_t>(kWorthAThread / std::max<int64_t>(size, 1), 1), work);
}

// y = activation(x W^T + b).  (rows, in) to (rows, out)
template <class T>
Tensor multiply(const Product& product, const Tensor& x, const std::string& activation = "linear");

}  // namespace fairseq_el
