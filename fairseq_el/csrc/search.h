// Plain beam search, as fairseq's SequenceGenerator does it, of some sentences together.
#pragma once

#include <functional>

#include "decoder.h"

namespace fairseq_el {

struct Rules {  // of fairseq_el.generation.SearchRules
  int64_t beam_size = 1, pad = 1, unk = 3, eos = 2;
  int64_t min_len = 0, max_len = 0;  // words, without eos
  int64_t forced_until = 0;          // steps in which a prefix may force words; other rules begin there
  int64_t ngram_size = 0;            // of n-grams that must not repeat; 0: all may
  std::vector<int64_t> suppressed;   // words that no hypothesis has
  double temperature = 1, unk_penalty = 0, length_penalty = 1;
  bool normalizes = true, matches_source = false;
  bool settles_ties = true;  // equal scores come in the order of stock's own topk
};

struct Sentence {               // a request
  std::vector<int64_t> prompt;  // the first symbol, and forced words
  int64_t may_end = 0;          // the first step that may append the eos
  int64_t last = 0;             // the step that appends nothing else
  int64_t source_length = 0;    // as the batch says it, for matches_source
};

struct Hypothesis {
  std::vector<int64_t> tokens;  // eos included
  std::vector<float> scores;    // of each word
  float score = 0;              // by which hypotheses are compared
};

struct Limits {  // of the room that intermediate results take
  int64_t tokens_at_once = 2048;  // positions that are read, or projected, together
  int64_t rows_at_once = 2048;    // rows of the output projection
};

struct Positions {  // embeddings of positions 0, 1, ...  (n, d) each
  Tensor source, target;
};

// Decodes sentences in groups, one for each thread (`groups`), or all together with threads in the products (1).
struct Decoded {
  std::vector<std::vector<Hypothesis>> hypotheses;  // of each sentence, as they ended
  std::vector<int64_t> without;                     // sentences that have none
  int64_t past_bytes = 0;    // of nodes and paths, at most
  int64_t source_bytes = 0;  // of what is kept of the sources beside the tensors that are given, at most
};

// sources: of each sentence, as Decoder::read_sources has them; empty in a language model. on_step is called by the
// calling thread.
Decoded decode(const Model& model, const Rules& rules, const std::vector<Sentence>& sentences,
               const std::vector<Tensor>& sources, const Positions& positions, const Limits& limits, int64_t groups,
               const std::function<void()>& on_step);

}  // namespace fairseq_el
