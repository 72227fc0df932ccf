// The decoder: one pass over any rows, each of them a word with the nodes before it.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "kernels.h"
#include "model.h"
#include "nodes.h"

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

// y = activation(x W^T + b).  (rows, in) to (rows, out)
template <class T>
Tensor multiply(const Product& product, const Tensor& x, const std::string& activation = "linear");

constexpr int64_t kWorthAThread = 1 << 16;  // multiplications; below, waking another thread takes longer

// Calls work(begin, end) for parts of [0, count), on several threads where `size`, multiplications each, makes it pay.
template <class F>
void in_parallel(int64_t count, int64_t size, F work) {
  at::parallel_for(0, count, std::max<int64_t>(kWorthAThread / std::max<int64_t>(size, 1), 1), work);
}

// One word to read: the last node of `path`. Rows of a sentence are side by side, in the order of sentences.
struct Row {
  int64_t sentence;
  const int32_t* path;  // from the first symbol to the word itself
  int64_t length;
};

// Symbols: R rows, d width, h heads of width dh, n visible positions of a source.
template <class T>
class Decoder {
 public:
  // positions: embeddings of positions 0, 1, ...  (n, d), in the dtype that is computed in; empty: there are none
  Decoder(const Model& model, const Tensor& positions, int64_t block_size);

  // Adds sentences, each with its source without padding, (n, d); `at_once` positions are projected together.
  void read_sources(const std::vector<Tensor>& sources, int64_t at_once);

  // A finished sentence will not be read again.
  void drop_source(int64_t sentence) {
    if (!sources_.empty()) sources_[sentence] = {};
  }

  // Features of all rows, (R, d). Their nodes get what self-attention keeps of them.
  Tensor run(const std::vector<Row>& rows);

  Nodes nodes;

  // Of what is kept beside the tensors that read_sources was given, before any sentence is dropped.
  int64_t source_bytes() const { return source_bytes_; }

 private:
  using R = Real<T>;
  struct Source {
    Tensor memory;  // (n, d), with EL-attention
    std::vector<Tensor> keys, values;  // of each layer, as kernels.h packs them
    int64_t length = 0;
  };

  Tensor embed(const std::vector<Row>& rows) const;
  void residual(Tensor& x, const Tensor* y, const LayerNorm* post, const LayerNorm* pre, Tensor& out) const;
  Tensor attend_past(const Attention& attention, int64_t layer, const Tensor& x, const std::vector<Row>& rows);
  Tensor attend_source(const Attention& attention, int64_t layer, const Tensor& x, const std::vector<Row>& rows) const;
  Tensor attend_memory(const Attention& attention, const Tensor& q, const std::vector<Row>& rows) const;
  Tensor expand(const Attention& attention, const Tensor& q, Tensor& shifts) const;
  Tensor contract(const Attention& attention, const Tensor& context, const Tensor& sums) const;

  const Model& model_;
  const Kernels<T>& kernels_;
  const Tensor positions_;
  const int64_t width_;
  std::vector<Source> sources_;
  int64_t source_bytes_ = 0;
};

}  // namespace fairseq_el
