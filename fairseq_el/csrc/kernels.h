// The arithmetic between products, row by row. No torch here: kernels.cpp is compiled once for every instruction level.
#pragma once

#include <cstdint>

namespace fairseq_el {

struct bfloat16 {  // the upper half of a float, as torch keeps it
  uint16_t bits;
};

template <class T>
struct RealOf {  // what numbers of a model are computed in
  using type = float;
};
template <>
struct RealOf<double> {
  using type = double;
};
template <class T>
using Real = typename RealOf<T>::type;

template <class T>
struct Norm {  // of a layer; no weight: nothing is normalised
  const Real<T>* weight = nullptr;
  const Real<T>* bias = nullptr;
  double eps = 0;
};

// Heads of attention. Head i reads numbers [i * stride, i * stride + width) of a key and a value. With stride = width
// these are heads of keys and values; with stride 0 every head reads all of them (EL-attention).
struct Heads {
  int64_t count, width, stride;
};

// Softmax as fairseq has it for float64: in float32.
void softmax_in_float32(double* scores, int64_t n);

// Symbols: d width of the model, h heads, n positions, V words.
template <class T>
struct Kernels {
  using R = Real<T>;

  // x = post(x + y); out = pre(x). y may be null.  (d) each
  void (*residual)(R* x, const T* y, const Norm<T>& post, const Norm<T>& pre, T* out, int64_t d);

  // out_i = softmax(s q_i K_i^T) V_i (Vaswani et al. 2017, eq. 1) of heads [begin, end), for m queries over the same n
  // keys and values, which may be anywhere in memory. q, out: (m, h, width). room: attention_room(n, width) numbers.
  // shifts: (m, h), added to each head's scores, and then the sums of its weights; or null.
  void (*attend)(const T* q, int64_t q_row, R scale, int64_t m, const T* const* keys, const T* const* values, int64_t n,
                 Heads heads, int64_t begin, int64_t end, T* out, R* room, R* shifts);

  // log-softmax(x)_j = (x_j - max) - log_sum, in torch's order of rounding.  (V)
  void (*log_softmax)(const float* x, int64_t n, float* max, float* log_sum);

  // The k largest numbers above minus infinity and their places, best first, equal ones by place. Returns how many.
  int64_t (*largest)(const float* x, int64_t n, int64_t k, float* values, int64_t* places);

  // y = x W^T + b for few rows, outputs [begin, end). x: (m, in); w: (out, in); b: (out) or null; y: (m, out)
  void (*few_rows)(const T* x, int64_t m, const T* w, const T* b, int64_t in, int64_t out, int64_t begin, int64_t end,
                   T* y);
  int64_t most_few_rows;  // up to which that is as fast as a library's product, measured

  // Rows as whole numbers from -127 to 127, plus 128, and what they must be multiplied by.  (rows, n)
  void (*to_int8)(const float* x, int64_t rows, int64_t n, uint8_t* to, float* scales);
};

constexpr int64_t attention_room(int64_t n, int64_t width) { return 4 * (n + width + 32); }

// Those of the best level that this processor has, or that FAIRSEQ_EL_INSTRUCTIONS names.
template <class T>
const Kernels<T>& kernels();
const char* instruction_level();

}  // namespace fairseq_el
