// The decoder: one pass over any rows, each of them a word with the nodes before it.
#pragma once

#include "nodes.h"
#include "product.h"

namespace fairseq_el {

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

  // Adds sentences: their encoder outputs without padding, (n, d), or words to encode, (n).
  // `at_once` positions are encoded, and projected, together. positions: of the encoder, as above.
  void read_sources(const std::vector<Tensor>& sources, const Tensor& positions, int64_t at_once);

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
    Tensor memory;                     // (n, d), with EL-attention
    std::vector<Tensor> keys, values;  // of each layer without, (n, h * dh)
  };

  void read_part(const std::vector<Tensor>& sources, const Tensor& positions, size_t first, size_t last);
  template <class F>
  Tensor run_layers(const Stack& stack, Tensor x, const F& attend) const;
  Tensor embed(const Stack& stack, const std::vector<int64_t>& words, const Tensor& positions,
               const std::vector<int64_t>& places) const;
  void residual(Tensor& x, const Tensor* y, const LayerNorm* post, const LayerNorm* pre, Tensor& out) const;
  Tensor attend_past(const Attention& attention, int64_t layer, const Tensor& x, const std::vector<Row>& rows);
  Tensor attend_source(const Attention& attention, int64_t layer, const Tensor& x, const std::vector<Row>& rows) const;
  Tensor attend_whole(const Attention& attention, const Tensor& x, const std::vector<int64_t>& firsts) const;
  Tensor attend_shared(int64_t heads, const Tensor& q, const std::vector<int64_t>& firsts,
                       const std::vector<const T*>& keys, const std::vector<const T*>& values,
                       const std::vector<int64_t>& lengths) const;
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
