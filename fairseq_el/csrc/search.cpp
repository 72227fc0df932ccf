#include "search.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>

namespace fairseq_el {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

struct Beam {
  std::vector<int32_t> path;  // nodes of the words that were read
  int64_t next;               // the word to read
  float score;                // of the hypothesis with it: the sum of its words' log-probabilities
};

struct Candidate {
  float score;
  int64_t word;
  int64_t beam;
};

struct Active {  // a sentence on its way
  int64_t number;  // among those of the search
  int64_t step;    // words written; the next step appends one more
  int64_t first_row;
  std::vector<Beam> beams;  // the best first; those with a score of minus infinity are left out
};

// The words of one row: log-probabilities are (x - max) - log_sum, where x is not forbidden.
struct Words {
  float* x;
  float max, log_sum;
  float unk;  // log-probability of the unknown word, which has a penalty of its own, and is not in x then

  float log_prob(float value) const { return (value - max) - log_sum; }
};

template <class T>
class Search {
 public:
  Search(const Model& model, const Rules& rules, std::vector<Sentence> sentences, const Tensor& positions,
         const Limits& limits)
      : rules_(rules),
        limits_(limits),
        model_(model),
        sentences_(std::move(sentences)),
        decoder_(model, positions, block_size()),
        hypotheses(sentences_.size()) {}

  void run(const std::vector<Tensor>& sources, const Tensor& source_positions, const std::function<bool()>& goes_on) {
    decoder_.read_sources(sources, source_positions, limits_.tokens_at_once);
    Tensor features = read_prompts();
    while (goes_on()) {
      search(features);
      if (active_.empty()) return;
      features = decoder_.run(read_words());
    }
  }

  int64_t past_bytes() const { return decoder_.nodes.size_bytes() + most_path_bytes_; }  // at most
  int64_t source_bytes() const { return decoder_.source_bytes(); }

 private:
  int64_t block_size() const {
    return std::min<int64_t>(std::max<int64_t>(int64_t(sentences_.size()) * rules_.beam_size, 16), 1024);
  }

  // Reads the prompts, each once for all beams. Returns features of the last word of each, (B, d).
  Tensor read_prompts() {
    std::vector<Tensor> last;
    for (size_t first = 0; first < sentences_.size();) {
      std::vector<Row> rows;
      std::vector<int64_t> ends;
      size_t s = first;
      active_.reserve(sentences_.size());  // rows point to paths
      for (; s < sentences_.size(); s++) {
        const std::vector<int64_t>& prompt = sentences_[s].prompt;
        if (s > first && int64_t(rows.size() + prompt.size()) > limits_.tokens_at_once) break;
        active_.push_back({int64_t(s), int64_t(prompt.size()) - 1, int64_t(s), {Beam{{}, 0, 0}}});
        std::vector<int32_t>& path = active_.back().beams[0].path;
        for (int64_t token : prompt) path.push_back(decoder_.nodes.add(path.empty() ? -1 : path.back(), token, 0));
        for (size_t j = 0; j < prompt.size(); j++) rows.push_back({int64_t(s), path.data(), int64_t(j) + 1});
        ends.push_back(int64_t(rows.size()) - 1);
      }
      const Tensor features = decoder_.run(rows);
      score_prompts(features, first, s);
      last.push_back(features.index_select(0, at::tensor(ends, at::kLong)));
      first = s;
    }
    return last.size() == 1 ? last[0] : at::cat(last);
  }

  // Gives the nodes of forced words their scores, rounded after every word as a search would.
  void score_prompts(const Tensor& features, size_t first, size_t end) {
    int64_t begin = 0;
    for (size_t s = first; s < end; s++) {
      Beam& beam = active_[s].beams[0];
      const int64_t length = int64_t(beam.path.size());
      for (int64_t from = 0; from + 1 < length; from += limits_.rows_at_once) {
        const int64_t to = std::min(from + limits_.rows_at_once, length - 1);
        Tensor scores = scores_of(features.slice(0, begin + from, begin + to));
        for (int64_t j = from; j < to; j++) {
          const int64_t count = scores.size(1), word = decoder_.nodes.token(beam.path[j + 1]);
          const Words words = words_of(static_cast<float*>(scores.data_ptr()) + (j - from) * count, count);
          float score = word == rules_.unk ? words.unk : words.log_prob(words.x[word]);
          if (word == rules_.pad) score = kForbidden;
          if (std::isnan(score)) score = kForbidden;
          beam.score = j == 0 ? score : score + beam.score;
          decoder_.nodes.set_score(beam.path[j + 1], beam.score);
        }
      }
      begin += length;
    }
  }

  // Gives every beam a node for its next word.
  std::vector<Row> read_words() {
    std::vector<Row> rows;
    int64_t path_bytes = 0;
    for (Active& sentence : active_) {
      sentence.first_row = int64_t(rows.size());
      for (Beam& beam : sentence.beams) {
        beam.path.push_back(decoder_.nodes.add(beam.path.back(), beam.next, beam.score));
        rows.push_back({sentence.number, beam.path.data(), int64_t(beam.path.size())});
        path_bytes += int64_t(beam.path.capacity() * sizeof(int32_t));
      }
    }
    most_path_bytes_ = std::max(most_path_bytes_, path_bytes);
    return rows;
  }

  // Logits, or for float64 log-probabilities, as fairseq has them: in float32.  (rows, d) to (rows, V)
  Tensor scores_of(const Tensor& features) const {
    Tensor logits = multiply<T>(model_.vocabulary, features);
    if (rules_.temperature != 1) logits /= rules_.temperature;
    return std::is_same_v<T, double> ? at::log_softmax(logits.to(at::kFloat), 1) : logits.to(at::kFloat);
  }

  Words words_of(float* x, int64_t count) const {
    Words words{x, 0, 0, kForbidden};
    if (!std::is_same_v<T, double>) kernels<T>().log_softmax(x, count, &words.max, &words.log_sum);
    words.unk = words.log_prob(x[rules_.unk]) - float(rules_.unk_penalty);
    return words;
  }

  // One step of all sentences; rows of `features` are their beams.
  void search(const Tensor& features) {
    std::vector<Active> going;
    for (size_t first = 0; first < active_.size();) {
      const int64_t row = active_[first].first_row;
      size_t end = first + 1;
      while (end < active_.size() && last_row(end) - row <= limits_.rows_at_once) end++;
      Tensor scores = scores_of(features.slice(0, row, last_row(end - 1)));
      search_part(scores, first, end, going);
      first = end;
    }
    active_ = std::move(going);
  }

  int64_t last_row(size_t i) const { return active_[i].first_row + int64_t(active_[i].beams.size()); }

  void search_part(Tensor& scores, size_t first, size_t end, std::vector<Active>& going) {
    const int64_t count = scores.size(1), most = 2 * rules_.beam_size + 1, row = active_[first].first_row;
    float* x = static_cast<float*>(scores.data_ptr());
    std::vector<Words> words(scores.size(0));
    std::vector<std::vector<Candidate>> found(scores.size(0));
    std::vector<std::pair<Active*, int64_t>> beams;
    for (size_t i = first; i < end; i++)
      for (size_t j = 0; j < active_[i].beams.size(); j++) beams.push_back({&active_[i], int64_t(j)});
    in_parallel(scores.size(0), 16 * count, [&](int64_t begin, int64_t stop) {
      std::vector<float> values(most);
      std::vector<int64_t> places(most);
      for (int64_t r = begin; r < stop; r++) {
        words[r] = words_of(x + r * count, count);
        forbid(words[r], count, *beams[r].first, beams[r].first->beams[beams[r].second]);
        const int64_t k = kernels<T>().largest(words[r].x, count, most, values.data(), places.data());
        const float before = beams[r].first->beams[beams[r].second].score;
        for (int64_t c = 0; c < k; c++)
          found[r].push_back({words[r].log_prob(values[c]) + before, places[c], beams[r].second});
        if (words[r].unk > kForbidden) found[r].push_back({words[r].unk + before, rules_.unk, beams[r].second});
      }
    });
    for (size_t i = first; i < end; i++) {
      const int64_t begin = active_[i].first_row - row;
      std::vector<Candidate> best = best_of(active_[i], &words[begin], &found[begin], count);
      if (advance(active_[i], best)) going.push_back(std::move(active_[i]));
    }
  }

  // Forbids and forces words of a beam, in x and in words.unk.
  void forbid(Words& words, int64_t count, const Active& sentence, const Beam& beam) const {
    const Sentence& request = sentences_[sentence.number];
    const int64_t step = sentence.step;
    const auto take = [&](int64_t word) {
      if (word == rules_.unk) words.unk = kForbidden;
      words.x[word] = kForbidden;
    };
    if (rules_.unk_penalty != 0)
      words.x[rules_.unk] = kForbidden;
    else
      words.unk = kForbidden;  // it is a word like others
    take(rules_.pad);
    if (step < request.may_end) take(rules_.eos);
    if (step >= rules_.forced_until) {
      if (step < rules_.min_len) take(rules_.eos);
      for (int64_t word : rules_.suppressed) take(word);
    }
    forbid_ngrams(beam, take);
    if (step >= std::min(request.last, rules_.max_len)) {
      const float eos = words.x[rules_.eos];
      std::fill(words.x, words.x + count, kForbidden);
      words.x[rules_.eos] = eos;
      words.unk = kForbidden;
    }
  }

  // Words that would complete an n-gram which the hypothesis has already (Paulus et al. 2018, section 2.5). The first
  // symbol is no word of its own, but n-grams may begin with it.
  template <class F>
  void forbid_ngrams(const Beam& beam, const F& take) const {
    const int64_t n = rules_.ngram_size, length = int64_t(beam.path.size());
    if (n == 0 || length < n) return;
    const auto token = [&](int64_t j) { return decoder_.nodes.token(beam.path[j]); };
    for (int64_t begin = n == 1 ? 1 : 0; begin + n <= length; begin++) {
      int64_t same = 0;
      while (same < n - 1 && token(begin + same) == token(length - n + 1 + same)) same++;
      if (same == n - 1) take(token(begin + n - 1));
    }
  }

  // The 2 b best continuations of a sentence, best first.
  std::vector<Candidate> best_of(const Active& sentence, const Words* words, const std::vector<Candidate>* found,
                                 int64_t count) const {
    std::vector<Candidate> all;
    for (size_t j = 0; j < sentence.beams.size(); j++)
      for (const Candidate& candidate : found[j])
        if (candidate.score > kForbidden) all.push_back(candidate);  // false for NaN, too
    const size_t wanted = 2 * rules_.beam_size, looked_at = std::min(wanted + 1, all.size());
    std::partial_sort(all.begin(), all.begin() + looked_at, all.end(),
                      [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
    if (rules_.settles_ties)
      for (size_t i = 1; i < looked_at; i++)
        if (all[i].score == all[i - 1].score) return as_stock(sentence, words, count);
    all.resize(std::min(wanted, all.size()));
    return all;
  }

  // Asks torch, as fairseq's BeamSearch does: which of equal scores comes first depends on all words.
  std::vector<Candidate> as_stock(const Active& sentence, const Words* words, int64_t count) const {
    const int64_t rows = sentence.step == 0 ? 1 : rules_.beam_size;
    const Tensor scores = at::full({rows, count}, kForbidden, at::kFloat);
    float* to = static_cast<float*>(scores.data_ptr());
    for (size_t j = 0; j < sentence.beams.size(); j++) {
      for (int64_t w = 0; w < count; w++) {
        const float value = words[j].log_prob(words[j].x[w]);
        to[j * count + w] = std::isnan(value) ? kForbidden : value + sentence.beams[j].score;
      }
      if (words[j].unk > kForbidden) to[j * count + rules_.unk] = words[j].unk + sentence.beams[j].score;
    }
    const auto best = at::topk(scores.view(-1), std::min(2 * rules_.beam_size, rows * count - 1));
    std::vector<Candidate> result;
    for (int64_t i = 0; i < std::get<0>(best).size(0); i++) {
      const float score = static_cast<float*>(std::get<0>(best).data_ptr())[i];
      const int64_t place = static_cast<int64_t*>(std::get<1>(best).data_ptr())[i];
      if (score > kForbidden) result.push_back({score, place % count, place / count});
    }
    return result;
  }

  // Hypotheses end, and the others go on. Returns whether the sentence does.
  bool advance(Active& sentence, const std::vector<Candidate>& best) {
    const Sentence& request = sentences_[sentence.number];
    std::vector<Hypothesis>& ended = hypotheses[sentence.number];
    const size_t beam_size = rules_.beam_size;
    bool has_ended = false;
    for (size_t i = 0; i < std::min(beam_size, best.size()); i++)
      if (best[i].word == rules_.eos && ended.size() < beam_size) {
        ended.push_back(end(sentence, best[i], request));
        has_ended = true;
      }
    const bool is_finished = has_ended && (ended.size() == beam_size || sentence.step >= request.last);
    std::vector<Beam> next;
    if (!is_finished && sentence.step < rules_.max_len)
      for (size_t i = 0; i < best.size() && next.size() < beam_size; i++)
        if (best[i].word != rules_.eos) {
          const std::vector<int32_t>& path = sentence.beams[best[i].beam].path;
          decoder_.nodes.use(path.back());
          std::vector<int32_t> longer;
          longer.reserve(path.size() + 1);
          longer = path;
          next.push_back({std::move(longer), best[i].word, best[i].score});
        }
    for (const Beam& beam : sentence.beams) decoder_.nodes.release(beam.path.back());
    sentence.beams = std::move(next);
    sentence.step++;
    if (!sentence.beams.empty()) return true;
    if (!is_finished) without.push_back(sentence.number);
    decoder_.drop_source(sentence.number);
    return false;
  }

  Hypothesis end(const Active& sentence, const Candidate& candidate, const Sentence& request) const {
    const std::vector<int32_t>& path = sentence.beams[candidate.beam].path;
    Hypothesis result;
    float before = 0;
    for (size_t j = 1; j < path.size(); j++) {
      result.tokens.push_back(decoder_.nodes.token(path[j]));
      const float score = decoder_.nodes.score(path[j]);
      result.scores.push_back(j == 1 ? score : score - before);
      before = score;
    }
    result.tokens.push_back(rules_.eos);
    result.scores.push_back(path.size() == 1 ? candidate.score : candidate.score - before);
    result.score = candidate.score;
    if (rules_.normalizes) result.score /= float(std::pow(double(sentence.step + 1), rules_.length_penalty));
    if (rules_.matches_source && sentence.step > request.source_length) result.score = kForbidden;
    return result;
  }

  const Rules& rules_;
  const Limits& limits_;
  const Model& model_;
  const std::vector<Sentence> sentences_;
  Decoder<T> decoder_;
  std::vector<Active> active_;
  int64_t most_path_bytes_ = 0;

 public:
  std::vector<std::vector<Hypothesis>> hypotheses;
  std::vector<int64_t> without;
};

template <class T>
Decoded decode_as(const Model& model, const Rules& rules, const std::vector<Sentence>& sentences,
                  const std::vector<Tensor>& sources, const Positions& positions, const Limits& limits, int64_t groups,
                  const std::function<void()>& on_step) {
  const int64_t count = int64_t(sentences.size());
  std::vector<int64_t> order(count);  // long sources first, dealt out to the groups: all have about as much to do
  std::iota(order.begin(), order.end(), 0);
  if (!sources.empty())
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return sources[a].size(0) > sources[b].size(0); });
  Decoded result;
  result.hypotheses.resize(count);
  std::vector<std::vector<int64_t>> without(groups);
  std::atomic<int64_t> past_bytes{0}, source_bytes{0};
  std::atomic<bool> has_failed{false};  // then the other groups, which would go on, end too
  const auto caller = std::this_thread::get_id();
  at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView inference;
    for (int64_t g = begin; g < end; g++) {
      std::vector<Sentence> mine;
      std::vector<Tensor> of_mine;
      for (int64_t i = g; i < count; i += groups) {
        mine.push_back(sentences[order[i]]);
        if (!sources.empty()) of_mine.push_back(sources[order[i]]);
      }
      Search<T> search(model, rules, std::move(mine), positions.target, limits);
      try {
        search.run(of_mine, positions.source, [&] {
          if (std::this_thread::get_id() == caller) on_step();
          return !has_failed;
        });
      } catch (...) {
        has_failed = true;
        throw;
      }
      for (size_t i = 0; i < search.hypotheses.size(); i++)
        result.hypotheses[order[g + int64_t(i) * groups]] = std::move(search.hypotheses[i]);
      for (int64_t i : search.without) without[g].push_back(order[g + i * groups]);
      past_bytes += search.past_bytes();
      source_bytes += search.source_bytes();
    }
  });
  for (const auto& some : without) result.without.insert(result.without.end(), some.begin(), some.end());
  std::sort(result.without.begin(), result.without.end());
  result.past_bytes = past_bytes;
  result.source_bytes = source_bytes;
  return result;
}

}  // namespace

Decoded decode(const Model& model, const Rules& rules, const std::vector<Sentence>& sentences,
               const std::vector<Tensor>& sources, const Positions& positions, const Limits& limits, int64_t groups,
               const std::function<void()>& on_step) {
  groups = std::min<int64_t>(groups, int64_t(sentences.size()));
  const auto dtype = model.decoder.embedding.scalar_type();
  TORCH_CHECK(dtype == at::kDouble || dtype == at::kFloat || dtype == at::kBFloat16,
              "decode: float64, float32 and bfloat16 are known; got ", dtype);
  const auto decode_it = dtype == at::kDouble  ? decode_as<double>
                         : dtype == at::kFloat ? decode_as<float>
                                               : decode_as<bfloat16>;
  return decode_it(model, rules, sentences, sources, positions, limits, groups, on_step);
}

}  // namespace fairseq_el
