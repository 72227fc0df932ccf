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

constexpr int64_t kKeysAtOnce = 16;  // keys of the source that lie side by side, for every number of a head
inline int64_t padded(int64_t n) { return (n + kKeysAtOnce - 1) / kKeysAtOnce * kKeysAtOnce; }

// Attention over nodes. Head i reads numbers [i * stride, i * stride + width) of keys and values: with stride = width
// these are heads of keys and values, with stride 0 every head reads all of the node (EL-attention).
struct NodeShape {
  int64_t heads, width, stride, value_offset;
};

// Softmax as fairseq has it for float64: in float32.
void softmax_in_float32(double* scores, int64_t n);

// Symbols: d width of the model, h heads of width dh, n positions, V words.
template <class T>
struct Kernels {
  using R = Real<T>;

  // x = post(x + y); out = pre(x). y may be null.  (d) each
  void (*residual)(R* x, const T* y, const Norm<T>& post, const Norm<T>& pre, T* out, int64_t d);

  // out_i = softmax(s q_i K_i^T) V_i (Vaswani et al. 2017, eq. 1) of one query, over n nodes anywhere in memory.
  // q, out: (h, width); room: h * width + n + kKeysAtOnce numbers. shifts: added to each head's scores, which then get
  // the sums of its weights; or null.
  void (*attend_nodes)(const T* q, R scale, const T* const* nodes, int64_t n, NodeShape shape, T* out, R* room,
                       R* shifts);

  // The same for m queries, over a source that pack_keys and pack_values have laid out; for heads [begin, end).
  // q, out: (m, h * dh) with rows `row` numbers apart; room: m * (dh + padded(n)) numbers.
  void (*attend_source)(const T* q, R scale, int64_t m, const T* keys, const T* values, int64_t n, int64_t begin,
                        int64_t end, int64_t dh, int64_t row, T* out, R* room);

  // Softmax of each row in place; sums: of each row's weights, or null.  (rows, n)
  void (*softmax_rows)(T* scores, int64_t rows, int64_t n, R* sums);

  // log-softmax(x)_j = (x_j - max) - log_sum, in torch's order of rounding.  (V)
  void (*log_softmax)(const float* x, int64_t n, float* max, float* log_sum);

  // The k largest numbers above minus infinity and their places, best first, equal ones by place. Returns how many.
  int64_t (*largest)(const float* x, int64_t n, int64_t k, float* values, int64_t* places);

  // y = x W^T + b for few rows, outputs [begin, end). x: (m, in); w: (out, in); b: (out) or null; y: (m, out)
  void (*few_rows)(const T* x, int64_t m, const T* w, const T* b, int64_t in, int64_t out, int64_t begin, int64_t end,
                   T* y);
};

// (n, h * dh) to (h, padded(n) / 16, dh, 16), zeros beyond n; and to (h, n, dh).
template <class T>
void pack_keys(const T* from, int64_t n, int64_t heads, int64_t dh, T* to) {
  for (int64_t i = 0; i < heads; i++)
    for (int64_t j = 0; j < padded(n); j++)
      for (int64_t c = 0; c < dh; c++)
        to[((i * padded(n) + j / kKeysAtOnce * kKeysAtOnce) * dh) + c * kKeysAtOnce + j % kKeysAtOnce] =
            j < n ? from[(j * heads + i) * dh + c] : T{};
}

template <class T>
void pack_values(const T* from, int64_t n, int64_t heads, int64_t dh, T* to) {
  for (int64_t i = 0; i < heads; i++)
    for (int64_t j = 0; j < n; j++)
      for (int64_t c = 0; c < dh; c++) to[(i * n + j) * dh + c] = from[(j * heads + i) * dh + c];
}

// Those of the best level that this processor has, or that FAIRSEQ_EL_INSTRUCTIONS names.
template <class T>
const Kernels<T>& kernels();
const char* instruction_level();

}  // namespace fairseq_el
