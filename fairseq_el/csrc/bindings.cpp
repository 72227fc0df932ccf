// What Python sees: the structs of model.h and search.h, and one function.
#include <torch/csrc/utils/pybind.h>

#include "search.h"

namespace py = pybind11;

namespace fairseq_el {
namespace {

// Runs the batch without the interpreter lock. Returns tokens and scores of all hypotheses side by side, their lengths
// and scores, the number of hypotheses of each sentence, sentences without any, and bytes of the past and the sources.
py::tuple decode_batch(const Model& model, const Rules& rules, const std::vector<Sentence>& sentences,
                       const std::vector<Tensor>& sources, const Tensor& positions, const Limits& limits,
                       int64_t groups) {
  Decoded decoded;
  {
    py::gil_scoped_release released;
    decoded = decode(model, rules, sentences, sources, positions, limits, groups, [] {
      py::gil_scoped_acquire acquired;  // so that Ctrl-C ends the batch
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    });
  }
  std::vector<int64_t> tokens, lengths, counts;
  std::vector<float> positional, scores;
  for (const auto& hypotheses : decoded.hypotheses) {
    counts.push_back(int64_t(hypotheses.size()));
    for (const Hypothesis& hypothesis : hypotheses) {
      tokens.insert(tokens.end(), hypothesis.tokens.begin(), hypothesis.tokens.end());
      positional.insert(positional.end(), hypothesis.scores.begin(), hypothesis.scores.end());
      lengths.push_back(int64_t(hypothesis.tokens.size()));
      scores.push_back(hypothesis.score);
    }
  }
  return py::make_tuple(at::tensor(tokens, at::kLong), at::tensor(positional, at::kFloat), lengths,
                        at::tensor(scores, at::kFloat), counts, decoded.without, decoded.past_bytes, decoded.source_bytes);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  py::class_<Product>(m, "Product")
      .def(py::init<>())
      .def_readwrite("weight", &Product::weight)
      .def_readwrite("bias", &Product::bias)
      .def_readwrite("packed", &Product::packed)
      .def_readwrite("packed_from", &Product::packed_from)
      .def_readwrite("fuses", &Product::fuses);
  py::class_<LayerNorm>(m, "LayerNorm")
      .def(py::init<>())
      .def_readwrite("weight", &LayerNorm::weight)
      .def_readwrite("bias", &LayerNorm::bias)
      .def_readwrite("eps", &LayerNorm::eps);
  py::class_<Attention>(m, "Attention")
      .def(py::init<>())
      .def_readwrite("heads", &Attention::heads)
      .def_readwrite("inputs", &Attention::inputs)
      .def_readwrite("key", &Attention::key)
      .def_readwrite("value", &Attention::value)
      .def_readwrite("output", &Attention::output);
  py::class_<Layer>(m, "Layer")
      .def(py::init<>())
      .def_readwrite("pre_norm", &Layer::pre_norm)
      .def_readwrite("has_source", &Layer::has_source)
      .def_readwrite("self_attention", &Layer::self)
      .def_readwrite("source_attention", &Layer::source)
      .def_readwrite("self_norm", &Layer::self_norm)
      .def_readwrite("source_norm", &Layer::source_norm)
      .def_readwrite("final_norm", &Layer::final_norm)
      .def_readwrite("up", &Layer::up)
      .def_readwrite("down", &Layer::down)
      .def_readwrite("activation", &Layer::activation);
  py::class_<Model>(m, "Model")
      .def(py::init<>())
      .def_readwrite("embedding", &Model::embedding)
      .def_readwrite("embedding_scale", &Model::embedding_scale)
      .def_readwrite("embedding_norm", &Model::embedding_norm)
      .def_readwrite("final_norm", &Model::final_norm)
      .def_readwrite("layers", &Model::layers)
      .def_readwrite("project_out", &Model::project_out)
      .def_readwrite("vocabulary", &Model::vocabulary)
      .def_readwrite("keeps_inputs", &Model::keeps_inputs)
      .def_readwrite("keeps_source", &Model::keeps_source);
  py::class_<Rules>(m, "Rules")
      .def(py::init<>())
      .def_readwrite("beam_size", &Rules::beam_size)
      .def_readwrite("pad", &Rules::pad)
      .def_readwrite("unk", &Rules::unk)
      .def_readwrite("eos", &Rules::eos)
      .def_readwrite("min_len", &Rules::min_len)
      .def_readwrite("max_len", &Rules::max_len)
      .def_readwrite("forced_until", &Rules::forced_until)
      .def_readwrite("ngram_size", &Rules::ngram_size)
      .def_readwrite("suppressed", &Rules::suppressed)
      .def_readwrite("temperature", &Rules::temperature)
      .def_readwrite("unk_penalty", &Rules::unk_penalty)
      .def_readwrite("length_penalty", &Rules::length_penalty)
      .def_readwrite("normalizes", &Rules::normalizes)
      .def_readwrite("matches_source", &Rules::matches_source)
      .def_readwrite("settles_ties", &Rules::settles_ties);
  py::class_<Sentence>(m, "Sentence")
      .def(py::init<>())
      .def_readwrite("prompt", &Sentence::prompt)
      .def_readwrite("may_end", &Sentence::may_end)
      .def_readwrite("last", &Sentence::last)
      .def_readwrite("source_length", &Sentence::source_length);
  py::class_<Limits>(m, "Limits")
      .def(py::init<>())
      .def_readwrite("tokens_at_once", &Limits::tokens_at_once)
      .def_readwrite("rows_at_once", &Limits::rows_at_once);
  m.def("decode", &decode_batch);
  m.def("instruction_level", &instruction_level);
}

}  // namespace fairseq_el
