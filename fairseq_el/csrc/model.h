// A decoder's parameters, as Python hands them over. They belong to the model; nothing is copied here.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

namespace fairseq_el {

using at::Tensor;

struct Product {        // y = x W^T + b
  Tensor weight, bias;  // (out, in); (out) or undefined
  Tensor packed;        // the weight as oneDNN multiplies it, or undefined
  int64_t packed_from = 0;  // rows from which on the packed weight is the faster one
  bool fuses = false;       // the activation may be computed by oneDNN, whose ReLU takes NaN for 0
  Tensor in_int8;           // the weight in 8 bits, as oneDNN multiplies it; defined: it is used for all rows
  Tensor scales, zeros;     // of its rows, (out)
};

struct LayerNorm {  // undefined weight: nothing is normalised
  Tensor weight, bias;  // (d), in the dtype that is computed in
  double eps = 0;
};

struct Attention {
  int64_t heads = 1;
  std::vector<Product> inputs;    // query, key and value; or one product that gives all three; or the query alone
  Product key, value, output;     // key and value of the source, or of nodes that are inputs of the layer
};

struct Layer {
  bool pre_norm = false, has_source = false;
  Attention self, source;
  LayerNorm self_norm, source_norm, final_norm;
  Product up, down;  // fc1 and fc2
  std::string activation;
};

struct Stack {  // embeddings and layers of an encoder or a decoder
  Tensor embedding;  // (V, d)
  double embedding_scale = 1;
  LayerNorm embedding_norm, final_norm;
  std::vector<Layer> layers;
};

struct Model {
  Stack encoder;  // without layers where Python encodes all batches
  Stack decoder;
  Product project_out, vocabulary;
  bool keeps_inputs = false;  // self-attention keeps the inputs of layers (EL-attention), not keys and values
  bool keeps_source = false;  // cross-attention keeps the encoder's output (EL-attention), not keys and values
};

}  // namespace fairseq_el
