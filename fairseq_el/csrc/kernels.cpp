// Compiled once for every level: FAIRSEQ_EL_LEVEL is avx512, avx2 or plain. Vectors are the compiler's own, of a size
// that the level has registers for, so that the same lines serve all levels and processors.
#include "kernels.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

namespace fairseq_el {
namespace FAIRSEQ_EL_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

typedef float Floats __attribute__((vector_size(kBytes)));
typedef double Doubles __attribute__((vector_size(kBytes)));
typedef int32_t Ints __attribute__((vector_size(kBytes)));
typedef uint32_t Bits __attribute__((vector_size(kBytes)));
typedef uint16_t Halves __attribute__((vector_size(kBytes / 2)));

constexpr int kFloats = kBytes / 4;
constexpr float kLowest = -std::numeric_limits<float>::infinity();

// Vectors of a type of numbers in memory: how many numbers they hold, and how they are read and written.
template <class T>
struct Lanes {
  using Vector = std::conditional_t<std::is_same_v<T, double>, Doubles, Floats>;
  static constexpr int count = kBytes / sizeof(T);
  static Vector load(const T* from) {
    Vector v;
    std::memcpy(&v, from, sizeof(v));
    return v;
  }
  static void store(Vector v, T* to) { std::memcpy(to, &v, sizeof(v)); }
  static Real<T> get(T x) { return x; }
  static T put(Real<T> x) { return x; }
};

template <>
struct Lanes<bfloat16> {
  using Vector = Floats;
  static constexpr int count = kFloats;
  static Vector load(const bfloat16* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof(halves));
    const Bits bits = __builtin_convertvector(halves, Bits) << 16;
    return (Vector)bits;
  }
  static void store(Vector v, bfloat16* to) {  // to the nearest, halves to even; NaN stays NaN
    const Bits bits = (Bits)v;
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Ints nan = v != v;
    const Bits chosen = nan ? (bits >> 16) | 0x40 : rounded;
    const Halves halves = __builtin_convertvector(chosen, Halves);
    std::memcpy(to, &halves, sizeof(halves));
  }
  static float get(bfloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  static bfloat16 put(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x) return {uint16_t((bits >> 16) | 0x40)};
    return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
  }
};

// Sum of all lanes: halves are added until few are left.
template <class Number, int Bytes>
Number sum_of(const void* lanes) {
  typedef Number Vector __attribute__((vector_size(Bytes)));
  if constexpr (Bytes == 16) {
    Vector v;
    std::memcpy(&v, lanes, Bytes);
    Number total = v[0] + v[1];
    if constexpr (sizeof(Number) == 4) total += v[2] + v[3];
    return total;
  } else {
    typedef Number Half __attribute__((vector_size(Bytes / 2)));
    Half low, high;
    std::memcpy(&low, lanes, Bytes / 2);
    std::memcpy(&high, static_cast<const char*>(lanes) + Bytes / 2, Bytes / 2);
    low += high;
    return sum_of<Number, Bytes / 2>(&low);
  }
}

float sum(Floats v) { return sum_of<float, kBytes>(&v); }
double sum(Doubles v) { return sum_of<double, kBytes>(&v); }

float largest_of(Floats v) {
  float m = v[0];
  for (int i = 1; i < kFloats; i++) m = v[i] > m ? v[i] : m;
  return m;
}

// e^x for x <= 0: 2^k times a polynomial of what is left of x (Cephes). Relative error 1e-7; 0 below -87.3.
Floats exponential(Floats x) {
  const Floats clipped = x < -87.3f ? Floats{} - 87.3f : x;
  const Floats k = (clipped * 1.44269504f + 12582912.f) - 12582912.f;  // to the nearest whole number
  const Floats r = (clipped - k * 0.693359375f) + k * 2.12194440e-4f;
  Floats p = Floats{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  const Ints power = (__builtin_convertvector(k, Ints) + 127) << 23;
  p *= (Floats)power;
  return x < -87.3f ? Floats{} : x == x ? p : x;
}

// Weights e^(x - max) in place, with zeros up to a whole vector; returns what they must be divided by.
float softmax(float* x, int64_t n) {
  const int64_t whole = (n + kFloats - 1) / kFloats * kFloats;
  for (int64_t j = n; j < whole; j++) x[j] = kLowest;
  Floats m = Lanes<float>::load(x);
  for (int64_t j = kFloats; j < whole; j += kFloats) {
    const Floats v = Lanes<float>::load(x + j);
    m = v > m ? v : m;
  }
  const Floats max = Floats{} + largest_of(m);
  Floats total{};
  for (int64_t j = 0; j < whole; j += kFloats) {
    const Floats e = exponential(Lanes<float>::load(x + j) - max);
    Lanes<float>::store(e, x + j);
    total += e;
  }
  return sum(total);
}

double softmax(double* x, int64_t n) {
  softmax_in_float32(x, n);
  return 1;
}

template <class T>
void residual(Real<T>* x, const T* y, const Norm<T>& post, const Norm<T>& pre, T* out, int64_t d) {
  using R = Real<T>;
  using L = Lanes<T>;
  using W = Lanes<R>;
  const int64_t whole = d / L::count * L::count;
  const auto normalize = [&](const Norm<T>& norm, R* to) {  // y = (x - mean) / sqrt(var + eps) * w + b
    typename L::Vector total{}, squares{};
    R rest = 0;
    for (int64_t c = 0; c < whole; c += L::count) total += W::load(x + c);
    for (int64_t c = whole; c < d; c++) rest += x[c];
    const R mean = (sum(total) + rest) / R(d);
    rest = 0;
    for (int64_t c = 0; c < whole; c += L::count) {
      const auto v = W::load(x + c) - mean;
      squares += v * v;
    }
    for (int64_t c = whole; c < d; c++) rest += (x[c] - mean) * (x[c] - mean);
    const R inverse = 1 / std::sqrt((sum(squares) + rest) / R(d) + R(norm.eps));
    for (int64_t c = 0; c < whole; c += L::count)
      W::store((W::load(x + c) - mean) * inverse * W::load(norm.weight + c) + W::load(norm.bias + c), to + c);
    for (int64_t c = whole; c < d; c++) to[c] = (x[c] - mean) * inverse * norm.weight[c] + norm.bias[c];
  };
  if (y != nullptr) {
    for (int64_t c = 0; c < whole; c += L::count) W::store(W::load(x + c) + L::load(y + c), x + c);
    for (int64_t c = whole; c < d; c++) x[c] += L::get(y[c]);
  }
  if (post.weight != nullptr) normalize(post, x);
  const R* result = x;
  if constexpr (std::is_same_v<R, T>) {
    if (pre.weight != nullptr) {
      normalize(pre, out);
      return;
    }
  }
  R room[2048];
  R* normed = d <= 2048 ? room : new R[d];
  if (pre.weight != nullptr) normalize(pre, normed), result = normed;
  for (int64_t c = 0; c < whole; c += L::count) L::store(W::load(result + c), out + c);
  for (int64_t c = whole; c < d; c++) out[c] = L::put(result[c]);
  if (normed != room) delete[] normed;
}

// Sum of q_c k_c over the width. Vectors > 0: the width in whole vectors, known when this is compiled.
template <class T, int Vectors>
Real<T> dot(const Real<T>* q, const T* k, int64_t width) {
  using L = Lanes<T>;
  typename L::Vector total{};
  const int64_t whole = Vectors > 0 ? Vectors * L::count : width / L::count * L::count;
  for (int64_t c = 0; c < whole; c += L::count) total += Lanes<Real<T>>::load(q + c) * L::load(k + c);
  Real<T> result = sum(total);
  if (Vectors == 0)
    for (int64_t c = whole; c < width; c++) result += q[c] * L::get(k[c]);
  return result;
}

template <class T, int Vectors>
void attend_nodes_of(const T* q, Real<T> scale, const T* const* nodes, int64_t n, NodeShape s, T* out, Real<T>* room,
                     Real<T>* shifts) {
  using R = Real<T>;
  using L = Lanes<T>;
  R* scaled = room;                          // (h, width)
  R* weights = room + s.heads * s.width;     // (n)
  for (int64_t c = 0; c < s.heads * s.width; c++) scaled[c] = L::get(q[c]) * scale;
  for (int64_t i = 0; i < s.heads; i++) {
    const int64_t key = i * s.stride, value = key + s.value_offset;
    for (int64_t j = 0; j < n; j++) weights[j] = dot<T, Vectors>(scaled + i * s.width, nodes[j] + key, s.width);
    if (shifts != nullptr)
      for (int64_t j = 0; j < n; j++) weights[j] += shifts[i];
    const R inverse = 1 / softmax(weights, n);
    if (shifts != nullptr) {
      shifts[i] = 0;
      for (int64_t j = 0; j < n; j++) shifts[i] += weights[j] * inverse;
    }
    T* to = out + i * s.width;
    int64_t c = 0;
    const auto add_up = [&](auto at_once) {  // so many vectors of the output at a time
      constexpr int count = decltype(at_once)::value;
      typename L::Vector total[count] = {};
      for (int64_t j = 0; j < n; j++)
        for (int v = 0; v < count; v++) total[v] += weights[j] * L::load(nodes[j] + value + c + v * L::count);
      for (int v = 0; v < count; v++) L::store(total[v] * inverse, to + c + v * L::count);
      c += count * L::count;
    };
    constexpr int at_once = Vectors > 0 ? (Vectors < 8 ? Vectors : 8) : 4;
    while (c + at_once * L::count <= s.width) add_up(std::integral_constant<int, at_once>());
    while (c + L::count <= s.width) add_up(std::integral_constant<int, 1>());
    for (; c < s.width; c++) {
      R total = 0;
      for (int64_t j = 0; j < n; j++) total += weights[j] * L::get(nodes[j][value + c]);
      to[c] = L::put(total * inverse);
    }
  }
}

template <class T>
void attend_nodes(const T* q, Real<T> scale, const T* const* nodes, int64_t n, NodeShape s, T* out, Real<T>* room,
                  Real<T>* shifts) {
  constexpr int count = Lanes<T>::count;
  switch (s.width % count == 0 ? s.width / count : 0) {
    case 1: return attend_nodes_of<T, 1>(q, scale, nodes, n, s, out, room, shifts);
    case 2: return attend_nodes_of<T, 2>(q, scale, nodes, n, s, out, room, shifts);
    case 4: return attend_nodes_of<T, 4>(q, scale, nodes, n, s, out, room, shifts);
    case 8: return attend_nodes_of<T, 8>(q, scale, nodes, n, s, out, room, shifts);
    default: return attend_nodes_of<T, 0>(q, scale, nodes, n, s, out, room, shifts);
  }
}

// Scores of M queries, (M, dh) and scaled, with 16 keys, (dh, 16).
template <class T, int M>
void scores_of(const Real<T>* q, const T* keys, int64_t dh, Real<T>* scores, int64_t row) {
  using L = Lanes<T>;
  constexpr int vectors = kKeysAtOnce / L::count > 0 ? kKeysAtOnce / L::count : 1;
  typename L::Vector total[M][vectors] = {};
  for (int64_t c = 0; c < dh; c++)
    for (int v = 0; v < vectors; v++) {
      const auto key = L::load(keys + c * kKeysAtOnce + v * L::count);
      for (int r = 0; r < M; r++) total[r][v] += q[r * dh + c] * key;
    }
  for (int r = 0; r < M; r++)
    for (int v = 0; v < vectors; v++) Lanes<Real<T>>::store(total[r][v], scores + r * row + v * L::count);
}

// Weighted sums of values (n, dh) for M queries, numbers [c, c + Vectors * count) of the head.
template <class T, int M, int Vectors>
void context_of(const Real<T>* weights, int64_t padded_n, const Real<T>* inverse, const T* values, int64_t n,
                int64_t dh, T* out, int64_t row) {
  using L = Lanes<T>;
  typename L::Vector total[M][Vectors] = {};
  for (int64_t j = 0; j < n; j++)
    for (int v = 0; v < Vectors; v++) {
      const auto value = L::load(values + j * dh + v * L::count);
      for (int r = 0; r < M; r++) total[r][v] += weights[r * padded_n + j] * value;
    }
  for (int r = 0; r < M; r++)
    for (int v = 0; v < Vectors; v++) L::store(total[r][v] * inverse[r], out + r * row + v * L::count);
}

template <class T, int M>
void attend_head(const T* q, Real<T> scale, const T* keys, const T* values, int64_t n, int64_t dh, int64_t row, T* out,
                 Real<T>* room) {
  using R = Real<T>;
  using L = Lanes<T>;
  const int64_t whole = padded(n);
  R* scaled = room;             // (M, dh)
  R* weights = room + M * dh;   // (M, padded(n))
  for (int r = 0; r < M; r++)
    for (int64_t c = 0; c < dh; c++) scaled[r * dh + c] = L::get(q[r * row + c]) * scale;
  for (int64_t j = 0; j < whole; j += kKeysAtOnce) scores_of<T, M>(scaled, keys + j * dh, dh, weights + j, whole);
  R inverse[M];
  for (int r = 0; r < M; r++) inverse[r] = 1 / softmax(weights + r * whole, n);
  int64_t c = 0;
  for (; c + 2 * L::count <= dh; c += 2 * L::count)
    context_of<T, M, 2>(weights, whole, inverse, values + c, n, dh, out + c, row);
  for (; c + L::count <= dh; c += L::count)
    context_of<T, M, 1>(weights, whole, inverse, values + c, n, dh, out + c, row);
  for (; c < dh; c++)
    for (int r = 0; r < M; r++) {
      R total = 0;
      for (int64_t j = 0; j < n; j++) total += weights[r * whole + j] * L::get(values[j * dh + c]);
      out[r * row + c] = L::put(total * inverse[r]);
    }
}

template <class T>
void attend_source(const T* q, Real<T> scale, int64_t m, const T* keys, const T* values, int64_t n, int64_t begin,
                   int64_t end, int64_t dh, int64_t row, T* out, Real<T>* room) {
  for (int64_t i = begin; i < end; i++) {
    const T* k = keys + i * padded(n) * dh;
    const T* v = values + i * n * dh;
    for (int64_t r = 0; r < m;) {  // 5 or 4 queries read a key once
      const T* from = q + r * row + i * dh;
      T* to = out + r * row + i * dh;
      switch (m - r < 5 ? m - r : (m - r) % 5 == 0 ? 5 : 4) {
        case 1: attend_head<T, 1>(from, scale, k, v, n, dh, row, to, room), r += 1; break;
        case 2: attend_head<T, 2>(from, scale, k, v, n, dh, row, to, room), r += 2; break;
        case 3: attend_head<T, 3>(from, scale, k, v, n, dh, row, to, room), r += 3; break;
        case 4: attend_head<T, 4>(from, scale, k, v, n, dh, row, to, room), r += 4; break;
        default: attend_head<T, 5>(from, scale, k, v, n, dh, row, to, room), r += 5; break;
      }
    }
  }
}

template <class T>
void softmax_rows(T* scores, int64_t rows, int64_t n, Real<T>* sums) {
  using R = Real<T>;
  using L = Lanes<T>;
  R* room = new R[n + kFloats];
  for (int64_t r = 0; r < rows; r++) {
    T* row = scores + r * n;
    for (int64_t j = 0; j < n; j++) room[j] = L::get(row[j]);
    const R inverse = 1 / softmax(room, n);
    R total = 0;
    for (int64_t j = 0; j < n; j++) total += room[j] * inverse, row[j] = L::put(room[j] * inverse);
    if (sums != nullptr) sums[r] = total;
  }
  delete[] room;
}

void log_softmax(const float* x, int64_t n, float* max, float* log_sum) {
  const int64_t whole = n / kFloats * kFloats;
  Floats m = Floats{} + kLowest;
  for (int64_t i = 0; i < whole; i += kFloats) {
    const Floats v = Lanes<float>::load(x + i);
    m = v > m ? v : m;
  }
  *max = largest_of(m);
  for (int64_t i = whole; i < n; i++) *max = x[i] > *max ? x[i] : *max;
  Floats total{}, more{};
  int64_t i = 0;
  for (; i + 2 * kFloats <= n; i += 2 * kFloats) {
    total += exponential(Lanes<float>::load(x + i) - *max);
    more += exponential(Lanes<float>::load(x + i + kFloats) - *max);
  }
  float rest = 0;
  for (; i < n; i++) rest += std::exp(x[i] - *max);
  *log_sum = std::log(sum(total + more) + rest);
}

int64_t largest(const float* x, int64_t n, int64_t k, float* values, int64_t* places) {
  int64_t count = 0;
  float least = kLowest;  // of those found, once there are k
  const auto put = [&](int64_t i) {
    if (!(x[i] > least)) return;
    int64_t at = count < k ? count++ : k - 1;
    for (; at > 0 && values[at - 1] < x[i]; at--) values[at] = values[at - 1], places[at] = places[at - 1];
    values[at] = x[i], places[at] = i;
    if (count == k) least = values[k - 1];
  };
  int64_t i = 0;
  for (; i + 2 * kFloats <= n; i += 2 * kFloats) {  // most vectors hold none
    const Floats a = Lanes<float>::load(x + i), b = Lanes<float>::load(x + i + kFloats);
    const Floats m = a > b ? a : b;
    const Ints over = m > least;
    int64_t any = 0;
    int64_t words[kBytes / 8];
    std::memcpy(words, &over, kBytes);
    for (int w = 0; w < kBytes / 8; w++) any |= words[w];
    if (any)
      for (int64_t j = i; j < i + 2 * kFloats; j++) put(j);
  }
  for (; i < n; i++) put(i);
  return count;
}

// M rows and 4 outputs at a time: a number of W is read once for all rows.
template <class T, int M>
void few_rows_of(const T* x, const T* w, const T* b, int64_t in, int64_t out, int64_t begin, int64_t end, T* y) {
  using L = Lanes<T>;
  const auto compute = [&](int64_t o, auto at_once) {
    constexpr int outputs = decltype(at_once)::value;
    typename L::Vector total[M][outputs] = {};
    const int64_t whole = in / L::count * L::count;
    for (int64_t c = 0; c < whole; c += L::count) {
      typename L::Vector weight[outputs];
      for (int k = 0; k < outputs; k++) weight[k] = L::load(w + (o + k) * in + c);
      for (int r = 0; r < M; r++) {
        const auto numbers = L::load(x + r * in + c);
        for (int k = 0; k < outputs; k++) total[r][k] += numbers * weight[k];
      }
    }
    for (int r = 0; r < M; r++)
      for (int k = 0; k < outputs; k++) {
        Real<T> value = sum(total[r][k]);
        for (int64_t c = whole; c < in; c++) value += L::get(x[r * in + c]) * L::get(w[(o + k) * in + c]);
        y[r * out + o + k] = L::put(b == nullptr ? value : value + L::get(b[o + k]));
      }
  };
  int64_t o = begin;
  for (; o + 4 <= end; o += 4) compute(o, std::integral_constant<int, 4>());
  for (; o < end; o++) compute(o, std::integral_constant<int, 1>());
}

template <class T>
void few_rows(const T* x, int64_t m, const T* w, const T* b, int64_t in, int64_t out, int64_t begin, int64_t end, T* y) {
  constexpr int64_t most = kBytes == 64 ? 5 : 2;  // sums that fit into registers
  for (int64_t r = 0; r < m;) {
    const T* from = x + r * in;
    T* to = y + r * out;
    const int64_t parts = (m - r + most - 1) / most, rows = (m - r + parts - 1) / parts;  // parts of about one size
    switch (rows) {
      case 1: few_rows_of<T, 1>(from, w, b, in, out, begin, end, to); break;
      case 2: few_rows_of<T, 2>(from, w, b, in, out, begin, end, to); break;
      case 3: few_rows_of<T, 3>(from, w, b, in, out, begin, end, to); break;
      case 4: few_rows_of<T, 4>(from, w, b, in, out, begin, end, to); break;
      default: few_rows_of<T, 5>(from, w, b, in, out, begin, end, to); break;
    }
    r += rows;
  }
}

}  // namespace

template <class T>
const Kernels<T>& table() {  // nothing runs before this level is chosen: the processor may not have its instructions
  static constexpr Kernels<T> kernels{residual<T>, attend_nodes<T>, attend_source<T>, softmax_rows<T>,
                                      log_softmax, largest,         few_rows<T>};
  return kernels;
}

template const Kernels<float>& table<float>();
template const Kernels<double>& table<double>();
template const Kernels<bfloat16>& table<bfloat16>();

}  // namespace FAIRSEQ_EL_LEVEL
}  // namespace fairseq_el
