"""The step of the search in torch: for all models, strategies, rules, devices and dtypes."""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.ensemble import EnsembleDecoder
from fairseq_el.generation.forced_prefix import Prompt
from fairseq_el.generation.hypotheses import Beams, Candidates, Kept, best_candidates
from fairseq_el.generation.rules import SearchRules, without_nan
from fairseq_el.generation.step import BeamStep
from fairseq_el.generation.transformers_search import TransformersWordRules
from fairseq_el.generation.word_rules import WordRules
from fairseq_el.policy import output_rows_at_once


class ReferenceStep(BeamStep):
    """A step as fairseq's ``SequenceGenerator._generate`` computes it, for any of fairseq's search strategies.

    Symbols: ``B`` sentences still decoded, ``b`` beams, ``V`` words of the vocabulary, ``d`` width of a decoder, ``n``
    positions of the source.

    Attributes:
        word_rules: the words that may follow.
        prompt: the first symbol, and prefixes where these can be read at once; None if some model is not an EL model.
    """

    def __init__(self, rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder):
        super().__init__(rules, batch, decoders)
        self.word_rules = (WordRules if rules.transformers is None else TransformersWordRules)(rules, batch)
        self.beams = Beams(len(batch.sentences), rules.beam_size, batch.max_len, rules.pad, batch.first, batch.device)
        self.prompt: Optional[Prompt] = None
        self._random = batch.random(rules) if rules.draws_for_each else None

    @classmethod
    def refusal(cls, rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder) -> Optional[str]:
        return None

    def begin(self) -> int:
        self.rules.strategy.init_constraints(self.batch.constraints, self.rules.beam_size)
        self.decoders.encode(self.batch.net_input, self.batch.source)
        if not self.decoders.all_share:
            return 0
        self.prompt = self._read_prompt()
        return self.prompt.first_step

    def _read_prompt(self) -> Prompt:
        """Reads the first symbol, and the prefix where it can be read at once; else the search is forced along it."""
        rules, batch, beams = self.rules, self.batch, self.beams
        words = beams.tokens[:: rules.beam_size, :0]  # (B, 0)
        lengths = batch.forced_lengths(rules)
        if lengths is not None:
            assert batch.prefix_tokens is not None
            words = batch.prefix_tokens[:, : max(lengths)]  # (B, p)
        # Plain beam search has nothing to do within prompts; the other strategies may draw random numbers.
        skips = lengths is not None and rules.is_beam_search
        prompt = Prompt(words, lengths, first_step=min(lengths) if skips and lengths else 0)
        prompt.read(self.decoders, batch.first, rules, scored=rules.transformers is None)
        if prompt.first_step > 0:
            assert prompt.log_probs is not None
            begun = slice(0, prompt.first_step)
            beams.begin_with(prompt.words[:, begun], prompt.log_probs[:, begun])
            if prompt.attention is not None:
                for position in range(prompt.first_step):
                    attn = prompt.attention[:, position].repeat_interleave(rules.beam_size, dim=0)  # (B*b, n)
                    beams.record_attention(position + 1, attn)
        return prompt

    def candidates(self, step: int) -> Candidates:
        # 1. Every model's output for the last word of every beam.  (B*b, 1, d or V) each
        outputs, attn = self._decode(step)
        self.beams.record_attention(step + 1, attn)  # (B*b, n)
        # 2. The best continuations.  (B, c)
        found = self._search(step, outputs)
        self.decoders.report(step)
        return found

    def _decode(self, step: int) -> Tuple[Optional[List[Tensor]], Optional[Tensor]]:
        """Outputs of each model for all beams, or None if all sentences are within their prompts; attention."""
        tokens, prompt = self.beams.tokens[:, : step + 1], self.prompt  # (B*b, t)
        if prompt is None:
            return self.decoders.step(tokens, None)
        outputs, attn = None, None
        if prompt.shortest < step:
            outputs, attn = self.decoders.step(tokens, prompt.in_search(step))
        attn = prompt.add_attention(step, attn, self.rules.beam_size)
        if step in prompt.lengths:
            outputs = prompt.add_first(step, self.decoders, outputs)
        if prompt.longest == step:
            for model in self.decoders.models:
                model.keep_first(None)
        return outputs, attn

    def _search(self, step: int, outputs: Optional[List[Tensor]]) -> Candidates:
        """Candidates from the search strategy; plain beam search sees a part of the sentences at a time."""
        rules, num_sentences = self.rules, self.beams.num_sentences
        if getattr(rules.strategy, "needs_src_lengths", False):
            rules.strategy.set_src_lengths(self.batch.src_lengths)
        part_size = num_sentences
        if rules.is_beam_search and self.decoders.all_share and outputs is not None:
            width = outputs[0].size(2)
            rows_at_once = output_rows_at_once(self.decoders.encoder_tokens, width, rules.vocab_size)
            part_size = max(rows_at_once // rules.beam_size, 1)
        found = []
        for begin in range(0, num_sentences, part_size):
            part = slice(begin, min(begin + part_size, num_sentences))
            found.append(self._search_part(step, outputs, part))
        return Candidates(*(torch.cat(tensors) if len(tensors) > 1 else tensors[0] for tensors in zip(*found)))

    def _search_part(self, step: int, outputs: Optional[List[Tensor]], part: slice) -> Candidates:
        """Candidates of some sentences: ``(B', c)`` each."""
        beams, rows = self.beams, self.beams.rows(part)
        is_plain = self._is_plain(step, outputs)
        # 1. Log-probabilities of all words.  (B'*b, V)
        if outputs is None:
            shape = (rows.stop - rows.start, self.rules.vocab_size)
            log_probs = torch.full(shape, float("-inf"), device=beams.tokens.device)
        else:
            log_probs = self._log_probs([output[rows] for output in outputs], beams.tokens[rows, : step + 1], is_plain)
        # 2. Words that may not follow get minus infinity.  (B'*b, V)
        log_probs = self._under_rules(step, log_probs, part)
        # 3. The best words.  (B', c)
        beams.scores = beams.scores.type_as(log_probs)
        if not is_plain:
            return self._search_log_probs(step, log_probs, part)
        scores = beams.scores[rows, step - 1] if step > 0 else None  # (B'*b)
        # In 16 bits EL models round otherwise than stock, and scores are often equal.
        settle_ties = not self.decoders.is_softmax or outputs is None or outputs[0].element_size() > 2
        return best_candidates(log_probs, scores, self.rules.strategy, self.rules.beam_size, settle_ties)

    def _is_plain(self, step: int, outputs: Optional[List[Tensor]]) -> bool:
        """Returns whether this is plain beam search, outside of prefixes."""
        rules = self.rules
        return (
            outputs is not None
            and rules.is_beam_search
            and not self.word_rules.forces_words(step)
            and 2 * rules.beam_size < rules.vocab_size
        )

    def _log_probs(self, outputs: List[Tensor], tokens: Tensor, is_plain: bool) -> Tensor:
        """Log-probabilities ``(rows, V)`` under the rules that are the same in every step.

        A row that is NaN everywhere may stay so in plain beam search, which looks for it itself.

        Args:
            outputs: of each model. *Shape:* ``(rows, 1, d or V)``.
            tokens: the words so far. *Shape:* ``(rows, t)``.
        """
        log_probs = self.decoders.log_probs(outputs, self.rules.temperature)
        if self.rules.language_model is not None:
            log_probs += self.rules.language_model_log_probs(tokens)
        elif self.decoders.is_softmax and is_plain:
            return self.rules.penalize(log_probs)
        return self.rules.penalize(without_nan(log_probs))

    def _under_rules(self, step: int, log_probs: Tensor, part: slice) -> Tensor:
        """``log_probs`` ``(rows, V)``, changed in place, with minus infinity for words that may not follow."""
        return self.word_rules.apply(step, log_probs, part, self.beams, self.prompt)

    def _search_log_probs(self, step: int, log_probs: Tensor, part: slice) -> Candidates:
        """The strategy's own candidates. ``log_probs``: ``(rows, V)``."""
        if self._random is None:
            return self._by_strategy(step, log_probs, part)
        assert part == slice(0, self.beams.num_sentences)  # only plain beam search sees a part at a time
        one = [slice(i, i + 1) for i in range(part.stop)]
        found = self._random.for_each(
            lambda i: self._by_strategy(step, log_probs[self.beams.rows(one[i])], one[i]),
        )
        return Candidates(*map(torch.cat, zip(*found)))

    def _by_strategy(self, step: int, log_probs: Tensor, part: slice) -> Candidates:
        beams, rows, num_sentences = self.beams, self.beams.rows(part), part.stop - part.start
        return Candidates(
            *self.rules.strategy.step(
                step,
                log_probs.view(num_sentences, -1, self.rules.vocab_size),  # (B'*b, V) -> (B', b, V)
                beams.scores[rows].view(num_sentences, self.rules.beam_size, -1)[:, :, :step],
                beams.tokens[rows, : step + 1],
                self.batch.ids[part],
            )
        )

    def worth_dropping(self, step: int, num_finished: int) -> bool:
        """Drops an eighth at a time, or at once where a finished sentence would leave traces.

        Search strategies and dropout (with which beams share no past) draw random numbers for it, and within prefixes
        fairseq checks what it has written.
        """
        leaves_traces = not self.rules.is_beam_search or not self.decoders.all_share
        if leaves_traces or self.batch.in_prefix(step + 1):
            return num_finished > 0
        return 8 * num_finished >= self.beams.num_sentences

    def advance(self, step: int, candidates: Candidates, ended: Tensor, kept: Optional[Kept]) -> None:
        # 1. Sentences leave; the decoders are told with the new order of beams.
        if kept is not None:
            self._keep(kept)
        # 2. Each sentence continues with b candidates.  (B, b) each
        active, beams = self.beams.advance(step, candidates, ended)
        self.rules.strategy.update_constraints(active)
        # 3. What the models keep follows the beams.  (B, b) -> (B*b)
        num_sentences = self.beams.num_sentences
        sentences = torch.arange(num_sentences, device=beams.device) if kept is None else kept.on_device
        self.decoders.reorder((beams + sentences.unsqueeze(1) * self.rules.beam_size).view(-1))

    def _keep(self, kept: Kept) -> None:
        self.rules.strategy.prune_sentences(kept.on_device)
        self.beams.keep(kept)
        if self._random is not None:
            self._random.keep(kept)
        if self.prompt is not None:
            self.prompt.keep(kept)
            for model in self.decoders.models:
                model.keep_first(kept.on_device)
