"""All steps of a batch in one call of native code, on a CPU (``csrc/``)."""

from __future__ import annotations

from typing import Any, Callable, List, Optional

import torch
from torch import Tensor

from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.batch_search import BatchSearch, why_not_plain
from fairseq_el.generation.ensemble import EnsembleDecoder, ModelDecoder, StateBytes
from fairseq_el.generation.hypotheses import Hypotheses, NoWordLeftError, hypothesis
from fairseq_el.generation.rules import SearchRules
from fairseq_el.native import DTYPES, can_encode, extension, native_model, reason_against
from fairseq_el.policy import groups_of_sentences, output_rows_at_once


class NativeSearch(BatchSearch):
    """Plain beam search of one EL model. Symbols: ``B`` sentences, ``n`` positions of the source, ``d`` width."""

    @classmethod
    def refusal(cls, rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder) -> Optional[str]:
        """The reason why native code can't decode a batch, in half a sentence; None if it can."""
        return next((reason for reason in _reasons(rules, batch, decoders) if reason is not None), None)

    def run(self) -> Hypotheses:
        (decoder,) = self.decoders.models
        self._encodes = can_encode(decoder.model, self.batch.net_input, self.batch.source.size(1))
        if not self._encodes:
            self.decoders.encode(self.batch.net_input, self.batch.source)
        return self._decode()

    def _decode(self) -> Hypotheses:
        native, rules, batch, (decoder,) = extension(), self.rules, self.batch, self.decoders.models
        num_sentences = len(batch.sentences)
        groups = groups_of_sentences(num_sentences, rules.beam_size, torch.get_num_threads())
        rows = -(-num_sentences // groups) * rules.beam_size
        state = decoder.state
        assert native is not None and state is not None
        model = native_model(native, decoder.model, state.backend, self._encodes, state.linears, rows)
        width, num_bytes = model.decoder.embedding.size(1), model.decoder.embedding.element_size()
        limits = native.Limits()
        limits.tokens_at_once = max(self.decoders.encoder_tokens // groups, 1)
        limits.rows_at_once = output_rows_at_once(limits.tokens_at_once, width, rules.vocab_size)
        sources = self._sources(decoder)
        *found, past_bytes, source_bytes = native.decode(
            model,
            _rules(native.Rules(), rules, batch, settles_ties=num_bytes > 2),
            _sentences(native.Sentence, rules, batch),
            sources,
            self._source_positions(decoder, sources),
            _positions(decoder.model.decoder, batch.max_len + 1),
            limits,
            groups,
        )
        source_bytes += 0 if decoder.encoder_out is None else decoder.encoder_out.size_bytes()
        self.decoders.peak = StateBytes(past_bytes, source_bytes)
        return _hypotheses(*found)

    def _sources(self, decoder: ModelDecoder) -> List[Tensor]:
        """Each source without padding, as native code reads it: words ``(n)``, or the encoder's output ``(n, d)``."""
        if self._encodes:
            words = self.batch.source.long().contiguous()
            return _visible(words, words.ne(decoder.model.encoder.padding_idx))
        if decoder.encoder_out is None:
            return []
        memory = decoder.encoder_out["encoder_out"][0].transpose(0, 1)  # (n, B, d) -> (B, n, d)
        masks = decoder.encoder_out["encoder_padding_mask"]
        return _visible(memory, ~masks[0].to(torch.bool)) if masks else list(memory)

    def _source_positions(self, decoder: ModelDecoder, sources: List[Tensor]) -> Tensor:
        if not self._encodes:
            return torch.empty(0)
        return _positions(decoder.model.encoder, max(1, *map(len, sources)))


def _reasons(rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder) -> Any:
    """Each thing that native code does not do, or None where it is not asked for; the cheapest first."""
    if extension() is None:
        yield "there is no native code"
    reason = why_not_plain(rules, decoders)
    if reason is not None:
        yield reason
        return
    if not _are_few(rules.beam_size, rules.vocab_size):
        yield f"{rules.beam_size} beams are many for a vocabulary of {rules.vocab_size}"
    if torch.is_grad_enabled():
        yield "gradients are recorded"
    if batch.prefix_tokens is not None and batch.forced_lengths(rules) is None:
        yield "prefixes can't be read in one pass"
    yield reason_against(decoders.models[0].model)


def _are_few(beam_size: int, vocab_size: int) -> bool:
    return 2 * beam_size < vocab_size


def native_threads(device: str, dtype: str, beam_size: int, vocab_size: int) -> int:
    """Threads that decode plain beam search natively here; 0 where it is decoded step by step in Python.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        dtype: a name in ``fairseq_el.dtypes.DTYPES``.
    """
    if device != "cpu" or dtype not in DTYPES or not _are_few(beam_size, vocab_size) or extension() is None:
        return 0
    return torch.get_num_threads()


def _rules(described: Any, rules: SearchRules, batch: ActiveBatch, settles_ties: bool) -> Any:
    """The struct ``Rules`` of ``csrc/search.h``."""
    described.beam_size, described.pad, described.unk, described.eos = (
        rules.beam_size,
        rules.pad,
        rules.unk,
        rules.eos,
    )
    described.min_len, described.max_len = rules.min_len, batch.max_len
    if batch.prefix_tokens is not None and not rules.alone:
        described.forced_until = min(batch.prefix_tokens.size(1), batch.max_len)
    if rules.ngram_blocker is not None:
        described.ngram_size = rules.ngram_blocker.no_repeat_ngram_size
    if rules.suppressed is not None:
        described.suppressed = rules.suppressed.tolist()
    described.temperature, described.unk_penalty = rules.temperature, rules.unk_penalty
    described.length_penalty, described.normalizes = rules.len_penalty, rules.normalize_scores
    described.matches_source, described.settles_ties = rules.match_source_len, settles_ties
    return described


def _sentences(new: Callable[[], Any], rules: SearchRules, batch: ActiveBatch) -> List[Any]:
    """The structs ``Sentence`` of ``csrc/search.h``."""
    lengths = batch.forced_lengths(rules) or [0] * len(batch.sentences)
    firsts, source_lengths = batch.first.tolist(), batch.src_lengths.tolist()
    described = []
    for i, length in enumerate(lengths):
        sentence = new()
        forced = batch.prefix_tokens[i, :length].tolist() if batch.prefix_tokens is not None else []
        sentence.prompt = [firsts[i], *forced]
        sentence.last = batch.last_step(i)
        if batch.limits is not None and batch.limits.prompts[i] <= length:  # a prompt beyond max_len may end there
            sentence.may_end = batch.limits.may_end[i]
        sentence.source_length = source_lengths[i]
        described.append(sentence)
    return described


def _visible(values: Tensor, visible: Tensor) -> List[Tensor]:
    """Values ``(B, n, ...)`` of each sentence where ``visible`` ``(B, n)`` is True; mostly views."""
    counts = visible.sum(dim=1).tolist()
    begins = visible.to(torch.uint8).argmax(dim=1).tolist()
    result = []
    for of_sentence, seen, begin, count in zip(values, visible, begins, counts):
        part = slice(begin, begin + count)
        result.append(of_sentence[part] if bool(seen[part].all()) else of_sentence[seen])
    return result


def _positions(stack: Any, length: int) -> Tensor:
    """Embeddings of the first positions, whatever the words; empty if there are none. *Shape:* ``(length, d)``."""
    if stack.embed_positions is None:
        return torch.empty(0)
    any_word = 0 if stack.padding_idx != 0 else 1
    embedded: Tensor = stack.embed_positions(torch.full((1, length), any_word))[0]
    return (embedded if embedded.dtype == torch.float64 else embedded.float()).contiguous()


def _hypotheses(
    tokens: Tensor,
    positional: Tensor,
    lengths: List[int],
    scores: Tensor,
    counts: List[int],
    without: List[int],
) -> Hypotheses:
    """Dictionaries as fairseq's generators return them, best first; the arguments are what native code returns of them.

    Raises:
        NoWordLeftError: a sentence has no hypothesis.
    """
    if without:
        raise NoWordLeftError(without)
    each = list(zip(tokens.split(lengths), scores, positional.split(lengths)))
    result, first = [], 0
    for of_sentence, count in zip(scores.split(counts), counts):
        order = torch.sort(of_sentence, descending=True)[1]  # stock's own call: equal scores stay in its order
        result.append([hypothesis(*each[first + i]) for i in order.tolist()])
        first += count
    return result
