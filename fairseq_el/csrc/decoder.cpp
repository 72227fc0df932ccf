#include "decoder.h"

#include <cmath>
#include <cstring>

namespace fairseq_el {

void softmax_in_float32(double* scores, int64_t n) {
  const Tensor all = at::from_blob(scores, {n}, at::kDouble);
  all.copy_(at::softmax(all.to(at::kFloat), 0));
}

namespace {

template <class T>
Norm<T> norm_of(const LayerNorm* norm) {
  if (norm == nullptr || !norm->weight.defined()) return {};
  return {data<const Real<T>>(norm->weight), data<const Real<T>>(norm->bias), norm->eps};
}

}  // namespace

template <class T>
Decoder<T>::Decoder(const Model& model, const Tensor& positions, int64_t block_size)
    : nodes(int64_t(model.decoder.layers.size()), model.decoder.embedding.size(1) * (model.keeps_inputs ? 1 : 2),
            block_size, ScalarTypeOf<T>::value),
      model_(model),
      kernels_(kernels<T>()),
      positions_(positions),
      width_(model.decoder.embedding.size(1)) {}

template <class T>
void Decoder<T>::read_sources(const std::vector<Tensor>& sources, const Tensor& positions, int64_t at_once) {
  for (size_t first = 0, last = 0; first < sources.size(); first = last) {
    int64_t length = 0;
    for (; last < sources.size() && (last == first || length + sources[last].size(0) <= at_once); last++)
      length += sources[last].size(0);
    read_part(sources, positions, first, last);
  }
}

template <class T>
void Decoder<T>::read_part(const std::vector<Tensor>& sources, const Tensor& positions, size_t first, size_t last) {
  const size_t begin = sources_.size();
  sources_.resize(begin + last - first);
  const bool encodes = sources[first].scalar_type() == at::kLong;
  if (!encodes && model_.keeps_source) {  // the encoder's own output
    for (size_t s = first; s < last; s++) sources_[begin + s - first].memory = sources[s];
    return;
  }
  std::vector<int64_t> firsts{0};  // row of each sentence
  for (size_t s = first; s < last; s++) firsts.push_back(firsts.back() + sources[s].size(0));
  Tensor memory;
  if (!encodes) {
    memory = at::cat(std::vector<Tensor>(sources.begin() + first, sources.begin() + last));
  } else {
    std::vector<int64_t> words, places;
    for (size_t s = first; s < last; s++)
      for (int64_t j = 0; j < sources[s].size(0); j++) {
        words.push_back(data<const int64_t>(sources[s])[j]);
        places.push_back(j);
      }
    memory = run_layers(model_.encoder, embed(model_.encoder, words, positions, places),
                        [&](const Layer& layer, int64_t, const Tensor& x, bool) {
                          return attend_whole(layer.self, x, firsts);
                        });
  }
  if (model_.keeps_source) {
    for (size_t s = 0; s < last - first; s++) sources_[begin + s].memory = memory.slice(0, firsts[s], firsts[s + 1]);
    source_bytes_ += memory.numel() * int64_t(sizeof(T));
    return;
  }
  for (const Layer& layer : model_.decoder.layers) {
    const Tensor keys = multiply<T>(layer.source.key, memory), values = multiply<T>(layer.source.value, memory);
    source_bytes_ += (keys.numel() + values.numel()) * int64_t(sizeof(T));
    for (size_t s = 0; s < last - first; s++) {  // copies, so that a finished sentence leaves its room
      sources_[begin + s].keys.push_back(keys.slice(0, firsts[s], firsts[s + 1]).clone());
      sources_[begin + s].values.push_back(values.slice(0, firsts[s], firsts[s + 1]).clone());
    }
  }
}

template <class T>
Tensor Decoder<T>::run(const std::vector<Row>& rows) {
  std::vector<int64_t> words, places;
  for (const Row& row : rows) {
    words.push_back(nodes.token(row.path[row.length - 1]));
    places.push_back(row.length - 1);
  }
  const Tensor features = run_layers(
      model_.decoder, embed(model_.decoder, words, positions_, places),
      [&](const Layer& layer, int64_t index, const Tensor& x, bool over_source) {
        return over_source ? attend_source(layer.source, index, x, rows) : attend_past(layer.self, index, x, rows);
      });
  return model_.project_out.weight.defined() ? multiply<T>(model_.project_out, features) : features;
}

// Layers over x, (R, d), with norms before or after each part. attend(layer, its number, input, whether it is the
// attention over the source): outputs of all heads, (R, h * dh).
template <class T>
template <class F>
Tensor Decoder<T>::run_layers(const Stack& stack, Tensor x, const F& attend) const {
  const auto norm_if = [](bool yes, const LayerNorm& norm) { return yes ? &norm : nullptr; };
  Tensor in = empty<T>(x.sizes());
  residual(x, nullptr, &stack.embedding_norm, norm_if(stack.layers[0].pre_norm, stack.layers[0].self_norm), in);
  for (size_t l = 0; l < stack.layers.size(); l++) {
    const Layer& layer = stack.layers[l];
    const bool pre = layer.pre_norm;
    Tensor y = multiply<T>(layer.self.output, attend(layer, l, in, false));
    residual(x, &y, norm_if(!pre, layer.self_norm),
             norm_if(pre, layer.has_source ? layer.source_norm : layer.final_norm), in);
    if (layer.has_source) {
      y = multiply<T>(layer.source.output, attend(layer, l, in, true));
      residual(x, &y, norm_if(!pre, layer.source_norm), norm_if(pre, layer.final_norm), in);
    }
    y = multiply<T>(layer.down, multiply<T>(layer.up, in, layer.activation));
    const bool is_last = l + 1 == stack.layers.size();
    const LayerNorm* next =
        is_last ? &stack.final_norm : norm_if(stack.layers[l + 1].pre_norm, stack.layers[l + 1].self_norm);
    residual(x, &y, norm_if(!pre, layer.final_norm), next, in);
  }
  return in;
}

// Embedded words at their places, before any norm.  (R, d)
template <class T>
Tensor Decoder<T>::embed(const Stack& stack, const std::vector<int64_t>& words, const Tensor& positions,
                         const std::vector<int64_t>& places) const {
  const int64_t width = stack.embedding.size(1);
  Tensor x = stack.embedding.index_select(0, at::tensor(words, at::kLong)).to(ScalarTypeOf<R>::value);
  x *= stack.embedding_scale;
  if (positions.numel() == 0) return x;
  for (size_t r = 0; r < words.size(); r++) {
    R* to = data<R>(x) + r * width;
    const R* position = data<const R>(positions) + places[r] * width;
    for (int64_t c = 0; c < width; c++) to[c] += position[c];
  }
  return x;
}

template <class T>
void Decoder<T>::residual(Tensor& x, const Tensor* y, const LayerNorm* post, const LayerNorm* pre, Tensor& out) const {
  const Norm<T> after = norm_of<T>(post), before = norm_of<T>(pre);
  R* numbers = data<R>(x);
  const T* added = y == nullptr ? nullptr : data<const T>(*y);
  T* to = data<T>(out);
  const int64_t width = x.size(1);
  in_parallel(x.size(0), 8 * width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      kernels_.residual(numbers + r * width, added == nullptr ? nullptr : added + r * width, after, before,
                        to + r * width, width);
  });
}

template <class T>
Tensor Decoder<T>::attend_past(const Attention& attention, int64_t layer, const Tensor& x,
                               const std::vector<Row>& rows) {
  const int64_t num_rows = x.size(0), heads = attention.heads, dh = width_ / heads;
  const auto node_of = [](const Row& row) { return row.path[row.length - 1]; };
  std::vector<Tensor> inputs;
  for (const Product& product : attention.inputs) inputs.push_back(multiply<T>(product, x));
  Tensor q = inputs[0], shifts;
  int64_t q_row = q.size(1), value_offset = width_;
  R scale = R(1 / std::sqrt(double(dh)));
  Heads shape{heads, dh, dh};
  if (model_.keeps_inputs) {
    for (int64_t r = 0; r < num_rows; r++)
      std::memcpy(nodes.template row<T>(layer, node_of(rows[r])), data<const T>(x) + r * width_, width_ * sizeof(T));
    q = expand(attention, q.mul_(scale), shifts);  // (R, h, d)
    q_row = heads * width_, scale = 1, shape = {heads, width_, 0}, value_offset = 0;
  } else {
    const bool joined = inputs.size() == 1;
    const T* keys = data<const T>(joined ? inputs[0] : inputs[1]) + (joined ? width_ : 0);
    const T* values = data<const T>(joined ? inputs[0] : inputs[2]) + (joined ? 2 * width_ : 0);
    for (int64_t r = 0; r < num_rows; r++) {
      T* node = nodes.template row<T>(layer, node_of(rows[r]));
      std::memcpy(node, keys + r * q_row, width_ * sizeof(T));
      std::memcpy(node + width_, values + r * q_row, width_ * sizeof(T));
    }
  }
  int64_t longest = 0;
  for (const Row& row : rows) longest = std::max(longest, row.length);
  const Tensor out = empty<T>({num_rows, heads * shape.width});
  const T* queries = data<const T>(q);
  T* to = data<T>(out);
  in_parallel(num_rows, 2 * longest * heads * shape.width, [&](int64_t begin, int64_t end) {
    std::vector<const T*> keys(longest), values(longest);
    std::vector<R> room(attention_room(longest, shape.width));
    for (int64_t r = begin; r < end; r++) {
      for (int64_t j = 0; j < rows[r].length; j++) {
        keys[j] = nodes.template row<T>(layer, rows[r].path[j]);
        values[j] = keys[j] + value_offset;
      }
      kernels_.attend(queries + r * q_row, q_row, scale, 1, keys.data(), values.data(), rows[r].length, shape, 0, heads,
                      to + r * heads * shape.width, room.data(),
                      shifts.defined() ? data<R>(shifts) + r * heads : nullptr);
    }
  });
  return model_.keeps_inputs ? contract(attention, out.view({num_rows, heads, width_}), shifts) : out;
}

template <class T>
Tensor Decoder<T>::attend_source(const Attention& attention, int64_t layer, const Tensor& x,
                                 const std::vector<Row>& rows) const {
  const Tensor q = multiply<T>(attention.inputs[0], x);
  if (model_.keeps_source) return attend_memory(attention, q, rows);
  std::vector<int64_t> firsts, lengths;
  std::vector<const T*> keys, values;
  for (size_t r = 0; r < rows.size(); r++)
    if (r == 0 || rows[r].sentence != rows[r - 1].sentence) {
      const Source& source = sources_[rows[r].sentence];
      firsts.push_back(r);
      keys.push_back(data<const T>(source.keys[layer]));
      values.push_back(data<const T>(source.values[layer]));
      lengths.push_back(source.keys[layer].size(0));
    }
  firsts.push_back(rows.size());
  return attend_shared(attention.heads, q, firsts, keys, values, lengths);
}

// Every position of a sentence sees all of it, as in an encoder. firsts: row of each sentence, and the end.
template <class T>
Tensor Decoder<T>::attend_whole(const Attention& attention, const Tensor& x, const std::vector<int64_t>& firsts) const {
  const Tensor k = multiply<T>(attention.inputs[1], x), v = multiply<T>(attention.inputs[2], x);
  std::vector<const T*> keys, values;
  std::vector<int64_t> lengths;
  for (size_t s = 0; s + 1 < firsts.size(); s++) {
    keys.push_back(data<const T>(k) + firsts[s] * k.size(1));
    values.push_back(data<const T>(v) + firsts[s] * v.size(1));
    lengths.push_back(firsts[s + 1] - firsts[s]);
  }
  return attend_shared(attention.heads, multiply<T>(attention.inputs[0], x), firsts, keys, values, lengths);
}

// q: (R, h * dh), those of sentence s from row firsts[s] on, over its keys and values, (lengths[s], h * dh) each.
template <class T>
Tensor Decoder<T>::attend_shared(int64_t heads, const Tensor& q, const std::vector<int64_t>& firsts,
                                 const std::vector<const T*>& keys, const std::vector<const T*>& values,
                                 const std::vector<int64_t>& lengths) const {
  const int64_t row = q.size(1), dh = row / heads, count = int64_t(lengths.size());
  int64_t longest = 1, most = 1;
  for (int64_t s = 0; s < count; s++) {
    longest = std::max(longest, lengths[s]);
    most = std::max(most, firsts[s + 1] - firsts[s]);
  }
  const Tensor out = empty<T>({q.size(0), row});
  const T* queries = data<const T>(q);
  T* to = data<T>(out);
  in_parallel(count * heads, 2 * most * longest * dh, [&](int64_t begin, int64_t end) {
    std::vector<const T*> k(longest), v(longest);
    std::vector<R> room(attention_room(longest, dh));
    while (begin < end) {  // the heads of one sentence
      const int64_t s = begin / heads, head = begin % heads, stop = std::min(heads, head + end - begin);
      for (int64_t j = 0; j < lengths[s]; j++) k[j] = keys[s] + j * row, v[j] = values[s] + j * row;
      kernels_.attend(queries + firsts[s] * row, row, R(1 / std::sqrt(double(dh))), firsts[s + 1] - firsts[s], k.data(),
                      v.data(), lengths[s], {heads, dh, dh}, head, stop, to + firsts[s] * row, room.data(), nullptr);
      begin += stop - head;
    }
  });
  return out;
}

// EL-attention (Yan et al. 2021, eq. 4 to 7): scores_i = (q_i Wk_i^T) H^T, out_i = (softmax(scores_i) H) Wv_i + bv_i.
template <class T>
Tensor Decoder<T>::attend_memory(const Attention& attention, const Tensor& q, const std::vector<Row>& rows) const {
  const int64_t heads = attention.heads, dh = q.size(1) / heads;
  Tensor shifts;
  const Tensor expanded = expand(attention, q * (1 / std::sqrt(double(dh))), shifts);  // (R, h, d)
  const Tensor context = at::empty_like(expanded);
  for (size_t r = 0, end = 0; r < rows.size(); r = end) {
    while (end < rows.size() && rows[end].sentence == rows[r].sentence) end++;
    const Tensor& memory = sources_[rows[r].sentence].memory;  // (n, d)
    const int64_t count = int64_t(end - r) * heads;
    Tensor scores = at::mm(expanded.slice(0, r, end).view({count, -1}), memory.t());  // (m*h, n)
    if (shifts.defined()) {  // float64
      Tensor shift = shifts.slice(0, r, end).view({count, 1});
      scores = at::softmax((scores + shift).to(at::kFloat), 1).to(at::kDouble);
      shift.copy_(scores.sum(1, true));
    } else {
      scores = at::softmax(scores, 1);
    }
    Tensor to = context.slice(0, r, end).view({count, -1});
    at::mm_out(to, scores, memory);  // (m*h, d)
  }
  return contract(attention, context, shifts);
}

// q_i Wk_i^T of every head, (R, h * dh) to (R, h, d). shifts: q_i bk_i^T, (R, h), which matters where the softmax
// rounds more than its scores, in float64; else undefined.
template <class T>
Tensor Decoder<T>::expand(const Attention& attention, const Tensor& q, Tensor& shifts) const {
  const Product& key = attention.key;
  const int64_t heads = attention.heads, dh = q.size(1) / heads;
  const Tensor out = empty<T>({q.size(0), heads, key.weight.size(1)});
  for (int64_t i = 0; i < heads; i++) {
    Tensor head = out.select(1, i);
    at::mm_out(head, q.narrow(1, i * dh, dh), key.weight.narrow(0, i * dh, dh));
  }
  if (std::is_same_v<T, double>) {
    shifts = at::zeros({q.size(0), heads}, q.options());
    if (key.bias.defined()) shifts += (q * key.bias).view({q.size(0), heads, dh}).sum(2);
  }
  return out;
}

// c_i Wv_i + s_i bv_i of every head, (R, h, d) to (R, h * dh), for weights that add up to s_i (undefined: to 1).
template <class T>
Tensor Decoder<T>::contract(const Attention& attention, const Tensor& context, const Tensor& sums) const {
  const Product& value = attention.value;
  const int64_t rows = context.size(0), heads = attention.heads, width = value.weight.size(0), dh = width / heads;
  const Tensor out = empty<T>({rows, width});
  for (int64_t i = 0; i < heads; i++) {
    Tensor head = out.narrow(1, i * dh, dh);
    at::mm_out(head, context.select(1, i), value.weight.narrow(0, i * dh, dh).t());
  }
  if (!value.bias.defined()) return out;
  if (!sums.defined()) return out + value.bias;
  return out + (sums.unsqueeze(2) * value.bias.view({heads, dh})).view({rows, width});
}

template class Decoder<float>;
template class Decoder<double>;
template class Decoder<bfloat16>;

}  // namespace fairseq_el
