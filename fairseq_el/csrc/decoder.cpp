#include "decoder.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <cmath>
#include <cstring>

namespace fairseq_el {

void softmax_in_float32(double* scores, int64_t n) {
  const Tensor all = at::from_blob(scores, {n}, at::kDouble);
  all.copy_(at::softmax(all.to(at::kFloat), 0));
}

namespace {

constexpr int64_t kFewRows = 8;

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <class T>
Tensor empty(at::IntArrayRef shape) {
  return at::empty(shape, at::TensorOptions().dtype(ScalarTypeOf<T>::value));
}

template <class T>
Norm<T> norm_of(const LayerNorm* norm) {
  if (norm == nullptr || !norm->weight.defined()) return {};
  return {data<const Real<T>>(norm->weight), data<const Real<T>>(norm->bias), norm->eps};
}

Tensor multiply_packed(const Product& product, const Tensor& x, const char* activation) {
  using Scalars = c10::List<c10::optional<at::Scalar>>;
  static const auto operation =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
          .typed<Tensor(const Tensor&, const Tensor&, const c10::optional<Tensor>&, c10::string_view, Scalars,
                        c10::optional<c10::string_view>)>();
  const c10::optional<Tensor> bias = product.bias.defined() ? c10::optional<Tensor>(product.bias) : c10::nullopt;
  const bool is_gelu = std::strcmp(activation, "gelu") == 0;
  return operation.call(x, product.packed, bias, activation, Scalars(), is_gelu ? "none" : "");
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
  const int64_t rows = x.size(0), in = x.size(1), out = product.weight.size(0);
  Tensor y;
  if (product.packed.defined() && rows >= product.packed_from) {
    if (product.fuses && (activation == "relu" || activation == "gelu"))
      return multiply_packed(product, x, activation.c_str());
    y = multiply_packed(product, x, "none");
  } else if (rows <= kFewRows) {
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

template <class T>
Decoder<T>::Decoder(const Model& model, const Tensor& positions, int64_t block_size)
    : nodes(int64_t(model.layers.size()), model.embedding.size(1) * (model.keeps_inputs ? 1 : 2), block_size,
            ScalarTypeOf<T>::value),
      model_(model),
      kernels_(kernels<T>()),
      positions_(positions),
      width_(model.embedding.size(1)) {}

template <class T>
void Decoder<T>::read_sources(const std::vector<Tensor>& sources, int64_t at_once) {
  for (const Tensor& memory : sources) {
    sources_.push_back({model_.keeps_source ? memory.contiguous() : Tensor(), {}, {}, memory.size(0)});
    if (model_.keeps_source && !sources_.back().memory.is_same(memory))  // else it is the encoder's own
      source_bytes_ += memory.numel() * int64_t(sizeof(T));
  }
  if (model_.keeps_source) return;
  for (size_t first = 0; first < sources.size();) {
    size_t last = first;
    int64_t length = 0;
    std::vector<Tensor> part;
    for (; last < sources.size() && (last == first || length + sources[last].size(0) <= at_once); last++) {
      part.push_back(sources[last]);
      length += sources[last].size(0);
    }
    const Tensor memory = part.size() == 1 ? part[0].contiguous() : at::cat(part);
    for (const Layer& layer : model_.layers) {
      const int64_t heads = layer.source.heads, width = layer.source.key.weight.size(0), dh = width / heads;
      const Tensor keys = multiply<T>(layer.source.key, memory), values = multiply<T>(layer.source.value, memory);
      int64_t begin = 0;
      for (size_t s = first; s < last; s++) {
        const int64_t n = sources_[s].length;
        const Tensor k = empty<T>({heads, padded(n), dh}), v = empty<T>({heads, n, dh});
        pack_keys(data<const T>(keys) + begin * width, n, heads, dh, data<T>(k));
        pack_values(data<const T>(values) + begin * width, n, heads, dh, data<T>(v));
        sources_[s].keys.push_back(k);
        sources_[s].values.push_back(v);
        source_bytes_ += (padded(n) + n) * width * int64_t(sizeof(T));
        begin += n;
      }
    }
    first = last;
  }
}

template <class T>
Tensor Decoder<T>::run(const std::vector<Row>& rows) {
  Tensor x = embed(rows), in = empty<T>({int64_t(rows.size()), width_});
  const auto norm_if = [](bool yes, const LayerNorm& norm) { return yes ? &norm : nullptr; };
  residual(x, nullptr, &model_.embedding_norm, norm_if(model_.layers[0].pre_norm, model_.layers[0].self_norm), in);
  for (size_t l = 0; l < model_.layers.size(); l++) {
    const Layer& layer = model_.layers[l];
    const bool pre = layer.pre_norm;
    Tensor y = multiply<T>(layer.self.output, attend_past(layer.self, l, in, rows));
    residual(x, &y, norm_if(!pre, layer.self_norm),
             norm_if(pre, layer.has_source ? layer.source_norm : layer.final_norm), in);
    if (layer.has_source) {
      y = multiply<T>(layer.source.output, attend_source(layer.source, l, in, rows));
      residual(x, &y, norm_if(!pre, layer.source_norm), norm_if(pre, layer.final_norm), in);
    }
    y = multiply<T>(layer.down, multiply<T>(layer.up, in, layer.activation));
    const bool is_last = l + 1 == model_.layers.size();
    const LayerNorm* next =
        is_last ? &model_.final_norm : norm_if(model_.layers[l + 1].pre_norm, model_.layers[l + 1].self_norm);
    residual(x, &y, norm_if(!pre, layer.final_norm), next, in);
  }
  return model_.project_out.weight.defined() ? multiply<T>(model_.project_out, in) : in;
}

template <class T>
Tensor Decoder<T>::embed(const std::vector<Row>& rows) const {
  const Tensor x = empty<R>({int64_t(rows.size()), width_});
  const T* table = data<const T>(model_.embedding);
  const Tensor room = empty<T>({int64_t(rows.size()), width_});
  for (size_t r = 0; r < rows.size(); r++)
    std::memcpy(data<T>(room) + r * width_, table + nodes.token(rows[r].path[rows[r].length - 1]) * width_,
                width_ * sizeof(T));
  R* to = data<R>(x);
  const Tensor numbers = room.to(ScalarTypeOf<R>::value);
  const R *from = data<const R>(numbers), scale = R(model_.embedding_scale);
  for (size_t r = 0; r < rows.size(); r++) {
    const R* position =
        positions_.numel() > 0 ? data<const R>(positions_) + (rows[r].length - 1) * width_ : nullptr;
    for (int64_t c = 0; c < width_; c++)
      to[r * width_ + c] = scale * from[r * width_ + c] + (position == nullptr ? 0 : position[c]);
  }
  return x;
}

template <class T>
void Decoder<T>::residual(Tensor& x, const Tensor* y, const LayerNorm* post, const LayerNorm* pre, Tensor& out) const {
  const Norm<T> after = norm_of<T>(post), before = norm_of<T>(pre);
  R* numbers = data<R>(x);
  const T* added = y == nullptr ? nullptr : data<const T>(*y);
  T* to = data<T>(out);
  in_parallel(x.size(0), 8 * width_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      kernels_.residual(numbers + r * width_, added == nullptr ? nullptr : added + r * width_, after, before,
                        to + r * width_, width_);
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
  int64_t q_row = q.size(1);
  R scale = R(1 / std::sqrt(double(dh)));
  NodeShape shape{heads, dh, dh, width_};
  if (model_.keeps_inputs) {
    for (int64_t r = 0; r < num_rows; r++)
      std::memcpy(nodes.template row<T>(layer, node_of(rows[r])), data<const T>(x) + r * width_, width_ * sizeof(T));
    q = expand(attention, q.mul_(scale), shifts);  // (R, h, d)
    q_row = heads * width_, scale = 1, shape = {heads, width_, 0, 0};
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
    std::vector<const T*> path(longest);
    std::vector<R> room(heads * shape.width + longest + kKeysAtOnce);
    for (int64_t r = begin; r < end; r++) {
      for (int64_t j = 0; j < rows[r].length; j++) path[j] = nodes.template row<T>(layer, rows[r].path[j]);
      kernels_.attend_nodes(queries + r * q_row, scale, path.data(), rows[r].length, shape,
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
  const int64_t heads = attention.heads, row = q.size(1), dh = row / heads;
  const R scale = R(1 / std::sqrt(double(dh)));
  std::vector<int64_t> firsts;  // row of each sentence
  int64_t longest = 0, most = 0;
  for (size_t r = 0; r < rows.size(); r++) {
    if (r == 0 || rows[r].sentence != rows[r - 1].sentence) firsts.push_back(r);
    longest = std::max(longest, sources_[rows[r].sentence].length);
    most = std::max<int64_t>(most, int64_t(r) + 1 - firsts.back());
  }
  firsts.push_back(rows.size());
  const Tensor out = empty<T>({q.size(0), row});
  const T* queries = data<const T>(q);
  T* to = data<T>(out);
  const int64_t count = int64_t(firsts.size()) - 1;
  in_parallel(count * heads, 2 * most * longest * dh, [&](int64_t begin, int64_t end) {
    std::vector<R> room(5 * (dh + padded(longest)) + kKeysAtOnce);
    while (begin < end) {  // the heads of one sentence
      const int64_t s = begin / heads, head = begin % heads, stop = std::min(heads, head + end - begin);
      const int64_t r = firsts[s];
      const Source& source = sources_[rows[r].sentence];
      kernels_.attend_source(queries + r * row, scale, firsts[s + 1] - r, data<const T>(source.keys[layer]),
                             data<const T>(source.values[layer]), source.length, head, stop, dh, row, to + r * row,
                             room.data());
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
    R* sums = nullptr;
    if (shifts.defined()) {
      scores += shifts.slice(0, r, end).reshape({count, 1});
      sums = data<R>(shifts) + r * heads;
    }
    in_parallel(count, 8 * memory.size(0), [&](int64_t first, int64_t last) {
      kernels_.softmax_rows(data<T>(scores) + first * memory.size(0), last - first, memory.size(0),
                            sums == nullptr ? nullptr : sums + first);
    });
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
template Tensor multiply<float>(const Product&, const Tensor&, const std::string&);
template Tensor multiply<double>(const Product&, const Tensor&, const std::string&);
template Tensor multiply<bfloat16>(const Product&, const Tensor&, const std::string&);

}  // namespace fairseq_el
