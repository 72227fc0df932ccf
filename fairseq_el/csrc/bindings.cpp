// What Python sees: the structs of model.h and search.h, and one function.
#include <torch/csrc/utils/pybind.h>

#include "search.h"

namespace py = pybind11;

namespace fairseq_el {
namespace {

// Runs the batch without the interpreter lock. Returns tokens and scores of all hypotheses side by side, their lengths
// and scores, the number of hypotheses of each sentence, sentences without any, and bytes of the past and the sources.
py::tuple decode_batch(const Model& model, const Rules& rules, const std::vector<Sentence>& sentences,
                       const std::vector<Tensor>& sources, const Tensor& source_positions, const Tensor& positions,
                       const Limits& limits, int64_t groups) {
  Decoded decoded;
  {
    py::gil_scoped_release released;
    decoded = decode(model, rules, sentences, sources, {source_positions, positions}, limits, groups, [] {
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
                        at::tensor(scores, at::kFloat), counts, decoded.without, decoded.past_bytes,
                        decoded.source_bytes);
}

// A struct with a constructor without arguments, and its fields.
template <class S, class... Field>
void bind(py::module& m, const char* name, std::initializer_list<const char*> names, Field S::*... fields) {
  py::class_<S> bound(m, name);
  bound.def(py::init<>());
  const char* const* next = names.begin();
  (bound.def_readwrite(*next++, fields), ...);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  bind(m, "Product", {"weight", "bias", "packed", "packed_from", "fuses", "in_int8", "scales", "zeros"},
       &Product::weight, &Product::bias, &Product::packed, &Product::packed_from, &Product::fuses, &Product::in_int8,
       &Product::scales, &Product::zeros);
  bind(m, "LayerNorm", {"weight", "bias", "eps"}, &LayerNorm::weight, &LayerNorm::bias, &LayerNorm::eps);
  bind(m, "Attention", {"heads", "inputs", "key", "value", "output"}, &Attention::heads, &Attention::inputs,
       &Attention::key, &Attention::value, &Attention::output);
  bind(m, "Layer",
       {"pre_norm", "has_source", "self_attention", "source_attention", "self_norm", "source_norm", "final_norm", "up",
        "down", "activation"},
       &Layer::pre_norm, &Layer::has_source, &Layer::self, &Layer::source, &Layer::self_norm, &Layer::source_norm,
       &Layer::final_norm, &Layer::up, &Layer::down, &Layer::activation);
  bind(m, "Stack", {"embedding", "embedding_scale", "embedding_norm", "final_norm", "layers"}, &Stack::embedding,
       &Stack::embedding_scale, &Stack::embedding_norm, &Stack::final_norm, &Stack::layers);
  bind(m, "Model", {"encoder", "decoder", "project_out", "vocabulary", "keeps_inputs", "keeps_source"}, &Model::encoder,
       &Model::decoder, &Model::project_out, &Model::vocabulary, &Model::keeps_inputs, &Model::keeps_source);
  bind(m, "Rules",
       {"beam_size", "pad", "unk", "eos", "min_len", "max_len", "forced_until", "ngram_size", "suppressed",
        "temperature", "unk_penalty", "length_penalty", "normalizes", "matches_source", "settles_ties"},
       &Rules::beam_size, &Rules::pad, &Rules::unk, &Rules::eos, &Rules::min_len, &Rules::max_len, &Rules::forced_until,
       &Rules::ngram_size, &Rules::suppressed, &Rules::temperature, &Rules::unk_penalty, &Rules::length_penalty,
       &Rules::normalizes, &Rules::matches_source, &Rules::settles_ties);
  bind(m, "Sentence", {"prompt", "may_end", "last", "source_length"}, &Sentence::prompt, &Sentence::may_end,
       &Sentence::last, &Sentence::source_length);
  bind(m, "Limits", {"tokens_at_once", "rows_at_once"}, &Limits::tokens_at_once, &Limits::rows_at_once);
  m.def("decode", &decode_batch);
  m.def("instruction_level", &instruction_level);
}

}  // namespace fairseq_el
