// Compiled once for every level: FAIRSEQ_EL_LEVEL is avx512, avx2 or plain. Vectors are the compiler's own, of a size
// that the level has registers for, so that the same lines serve all levels and processors.
#include "kernels.h"

#include <algorithm>
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

// to = (x - mean) / sqrt(variance + eps) * w + b.  (d)
template <class T, class To>
void normalize(const Norm<T>& norm, const Real<T>* x, To* to, int64_t d) {
  using R = Real<T>;
  using W = Lanes<R>;
  const int64_t whole = d / W::count * W::count;
  typename W::Vector total{}, squares{};
  R rest = 0;
  for (int64_t c = 0; c < whole; c += W::count) total += W::load(x + c);
  for (int64_t c = whole; c < d; c++) rest += x[c];
  const R mean = (sum(total) + rest) / R(d);
  rest = 0;
  for (int64_t c = 0; c < whole; c += W::count) squares += (W::load(x + c) - mean) * (W::load(x + c) - mean);
  for (int64_t c = whole; c < d; c++) rest += (x[c] - mean) * (x[c] - mean);
  const R inverse = 1 / std::sqrt((sum(squares) + rest) / R(d) + R(norm.eps));
  for (int64_t c = 0; c < whole; c += W::count)
    Lanes<To>::store((W::load(x + c) - mean) * inverse * W::load(norm.weight + c) + W::load(norm.bias + c), to + c);
  for (int64_t c = whole; c < d; c++)
    to[c] = Lanes<To>::put((x[c] - mean) * inverse * norm.weight[c] + norm.bias[c]);
}

template <class T>
void residual(Real<T>* x, const T* y, const Norm<T>& post, const Norm<T>& pre, T* out, int64_t d) {
  using L = Lanes<T>;
  if (y != nullptr)
    for (int64_t c = 0; c < d; c++) x[c] += L::get(y[c]);
  if (post.weight != nullptr) normalize(post, x, x, d);
  if (pre.weight != nullptr) return normalize(pre, x, out, d);
  for (int64_t c = 0; c < d; c++) out[c] = L::put(x[c]);
}

// Sums of q_i k_i over the width for four pairs at a time. Vectors > 0: the width in whole vectors, if known.
template <class T, int Vectors>
void four_dots(const Real<T>* const* q, const T* const* k, int64_t width, Real<T>* const* to) {
  using L = Lanes<T>;
  typename L::Vector total[4] = {};
  const int64_t whole = Vectors > 0 ? Vectors * L::count : width / L::count * L::count;
  for (int64_t c = 0; c < whole; c += L::count)
    for (int i = 0; i < 4; i++) total[i] += Lanes<Real<T>>::load(q[i] + c) * L::load(k[i] + c);
  for (int i = 0; i < 4; i++) {
    Real<T> result = sum(total[i]);
    for (int64_t c = whole; Vectors == 0 && c < width; c++) result += q[i][c] * L::get(k[i][c]);
    *to[i] = result;
  }
}

// Numbers [c, c + Vectors * count) of the weighted sums of values, for M queries.
template <class T, int M, int Vectors>
void weighted_sums(const Real<T>* weights, int64_t row, const Real<T>* inverse, const T* const* values, int64_t n,
                   int64_t c, T* out, int64_t out_row) {
  using L = Lanes<T>;
  typename L::Vector total[M][Vectors] = {};
  for (int64_t j = 0; j < n; j++)
    for (int v = 0; v < Vectors; v++) {
      const auto value = L::load(values[j] + c + v * L::count);
      for (int r = 0; r < M; r++) total[r][v] += weights[r * row + j] * value;
    }
  for (int r = 0; r < M; r++)
    for (int v = 0; v < Vectors; v++) L::store(total[r][v] * inverse[r], out + r * out_row + v * L::count);
}

// One head of M queries, 1 or 4: a key is read once for all of them.
template <class T, int M, int Vectors>
void attend_head(const T* q, int64_t q_row, Real<T> scale, const T* const* keys, const T* const* values, int64_t n,
                 Heads heads, int64_t head, T* out, Real<T>* room, Real<T>* shifts) {
  using R = Real<T>;
  using L = Lanes<T>;
  const int64_t width = heads.width, from = head * heads.stride, out_row = heads.count * width, row = n + 16;
  R* scaled = room;               // (M, width)
  R* weights = room + M * width;  // (M, row)
  for (int r = 0; r < M; r++)
    for (int64_t c = 0; c < width; c++) scaled[r * width + c] = L::get(q[r * q_row + head * width + c]) * scale;
  for (int64_t j = 0; j < n; j += M == 1 ? 4 : 1) {
    const R* queries[4];
    const T* of_keys[4];
    R* to[4];
    for (int i = 0; i < 4; i++) {
      const int64_t key = M == 1 ? std::min(j + i, n - 1) : j;  // the last one again, where there are no four
      queries[i] = M == 1 ? scaled : scaled + i * width;
      of_keys[i] = keys[key] + from;
      to[i] = weights + (M == 1 ? key : i * row + j);
    }
    four_dots<T, Vectors>(queries, of_keys, width, to);
  }
  R inverse[M];
  for (int r = 0; r < M; r++) {
    R *mine = weights + r * row, *shift = shifts == nullptr ? nullptr : shifts + r * heads.count + head;
    for (int64_t j = 0; shift != nullptr && j < n; j++) mine[j] += *shift;
    inverse[r] = 1 / softmax(mine, n);
    if (shift != nullptr) *shift = 0;
    for (int64_t j = 0; shift != nullptr && j < n; j++) *shift += mine[j] * inverse[r];
  }
  T* to = out + head * width;
  int64_t c = 0;
  for (; c + 4 * L::count <= width; c += 4 * L::count)
    weighted_sums<T, M, 4>(weights, row, inverse, values, n, from + c, to + c, out_row);
  for (; c + 2 * L::count <= width; c += 2 * L::count)
    weighted_sums<T, M, 2>(weights, row, inverse, values, n, from + c, to + c, out_row);
  for (; c + L::count <= width; c += L::count)
    weighted_sums<T, M, 1>(weights, row, inverse, values, n, from + c, to + c, out_row);
  for (; c < width; c++)
    for (int r = 0; r < M; r++) {
      R total = 0;
      for (int64_t j = 0; j < n; j++) total += weights[r * row + j] * L::get(values[j][from + c]);
      to[r * out_row + c] = L::put(total * inverse[r]);
    }
}

template <class T>
void attend(const T* q, int64_t q_row, Real<T> scale, int64_t m, const T* const* keys, const T* const* values,
            int64_t n, Heads heads, int64_t begin, int64_t end, T* out, Real<T>* room, Real<T>* shifts) {
  using Attend = void (*)(const T*, int64_t, Real<T>, const T* const*, const T* const*, int64_t, Heads, int64_t, T*,
                          Real<T>*, Real<T>*);
  static constexpr Attend one[] = {attend_head<T, 1, 0>, attend_head<T, 1, 1>, attend_head<T, 1, 2>,
                                   attend_head<T, 1, 4>, attend_head<T, 1, 8>};
  static constexpr Attend four[] = {attend_head<T, 4, 0>, attend_head<T, 4, 1>, attend_head<T, 4, 2>,
                                    attend_head<T, 4, 4>, attend_head<T, 4, 8>};
  const int64_t vectors = heads.width % Lanes<T>::count == 0 ? heads.width / Lanes<T>::count : 0;
  const int known = vectors == 1 ? 1 : vectors == 2 ? 2 : vectors == 4 ? 3 : vectors == 8 ? 4 : 0;
  for (int64_t i = begin; i < end; i++)
    for (int64_t r = 0, count; r < m; r += count) {
      count = m - r >= 4 ? 4 : 1;
      (count == 4 ? four : one)[known](q + r * q_row, q_row, scale, keys, values, n, heads, i,
                                       out + r * heads.count * heads.width, room,
                                       shifts == nullptr ? nullptr : shifts + r * heads.count);
    }
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

// M rows and 4 outputs at a time: a number of W is read once for these rows. next: the outputs that come after them,
// which are fetched meanwhile; the weights come from memory.
template <class T, int M>
void few_rows_of(const T* x, const T* w, const T* b, int64_t in, int64_t out, int64_t begin, int64_t end, T* y,
                 const T* next) {
  using L = Lanes<T>;
  const auto compute = [&](int64_t o, auto at_once) {
    constexpr int outputs = decltype(at_once)::value;
    typename L::Vector total[M][outputs] = {};
    const int64_t whole = in / L::count * L::count;
    for (int64_t c = 0; c < whole; c += L::count) {
      typename L::Vector weight[outputs];
      for (int k = 0; k < outputs; k++) {
        weight[k] = L::load(w + (o + k) * in + c);
        if (next != nullptr) __builtin_prefetch(next + (o - begin + k) * in + c);  // a prefetch never faults
      }
      for (int r = 0; r < M; r++) {
        const auto numbers = L::load(x + r * in + c);
        for (int k = 0; k < outputs; k++) total[r][k] += numbers * weight[k];
      }
    }
    Real<T> values[M][outputs];
    for (int r = 0; r < M; r++)
      for (int k = 0; k < outputs; k++) values[r][k] = sum(total[r][k]);
    for (int64_t c = whole; c < in; c++)
      for (int r = 0; r < M; r++)
        for (int k = 0; k < outputs; k++) values[r][k] += L::get(x[r * in + c]) * L::get(w[(o + k) * in + c]);
    for (int r = 0; r < M; r++)
      for (int k = 0; k < outputs; k++)
        y[r * out + o + k] = L::put(b == nullptr ? values[r][k] : values[r][k] + L::get(b[o + k]));
  };
  int64_t o = begin;
  for (; o + 4 <= end; o += 4) compute(o, std::integral_constant<int, 4>());
  for (; o < end; o++) compute(o, std::integral_constant<int, 1>());
}

template <class T>
void few_rows(const T* x, int64_t m, const T* w, const T* b, int64_t in, int64_t out, int64_t begin, int64_t end,
              T* y) {
  using Multiply = void (*)(const T*, const T*, const T*, int64_t, int64_t, int64_t, int64_t, T*, const T*);
  static constexpr Multiply of[] = {few_rows_of<T, 1>, few_rows_of<T, 2>, few_rows_of<T, 3>, few_rows_of<T, 4>,
                                    few_rows_of<T, 5>};
  constexpr int64_t most = kBytes == 64 ? 5 : 3;  // rows whose sums fit into registers
  const int64_t block = 4 * std::max<int64_t>(1, 1024 / in);  // outputs whose weights stay near while rows take turns
  for (int64_t o = begin; o < end; o += block) {
    const int64_t stop = std::min(o + block, end);
    for (int64_t r = 0, rows; r < m; r += rows) {
      const int64_t parts = (m - r + most - 1) / most;  // of about one size
      rows = (m - r + parts - 1) / parts;
      of[rows - 1](x + r * in, w, b, in, out, o, stop, y + r * out, r == 0 ? w + stop * in : nullptr);
    }
  }
}

void to_int8(const float* x, int64_t rows, int64_t n, uint8_t* to, float* scales) {
  typedef uint8_t Bytes __attribute__((vector_size(kFloats)));
  constexpr float shift = 12582912.f;  // 1.5 * 2^23: a sum with it has the whole number in its last bits
  const auto round = [](float value) {
    const float sum = value + shift;
    uint32_t bits;
    std::memcpy(&bits, &sum, 4);
    return uint8_t(bits + 128);
  };
  const int64_t whole = n / kFloats * kFloats;
  for (int64_t r = 0; r < rows; r++, x += n, to += n) {
    float largest = 0, nan = 0;  // nan: of a row with NaN or an infinite number
    for (int64_t i = 0; i < n; i++) {
      const float size = std::fabs(x[i]);
      largest = size > largest ? size : largest;
      nan += x[i] * 0;
    }
    scales[r] = largest / 127 + nan;
    for (int64_t i = 0; i < whole; i += kFloats) {
      const Floats sum = Lanes<float>::load(x + i) / scales[r] + shift;
      const Bytes bytes = __builtin_convertvector(((Bits)sum + 128) & 0xff, Bytes);
      std::memcpy(to + i, &bytes, kFloats);
    }
    for (int64_t i = whole; i < n; i++) to[i] = round(x[i] / scales[r]);
  }
}

}  // namespace

template <class T>
const Kernels<T>& table() {  // nothing runs before this level is chosen: the processor may not have its instructions
  static constexpr Kernels<T> kernels{residual<T>, attend<T>, log_softmax, largest,
                                      few_rows<T>, kBytes == 64 ? 20 : 10, to_int8};
  return kernels;
}

template const Kernels<float>& table<float>();
template const Kernels<double>& table<double>();
template const Kernels<bfloat16>& table<bfloat16>();

}  // namespace FAIRSEQ_EL_LEVEL
}  // namespace fairseq_el
