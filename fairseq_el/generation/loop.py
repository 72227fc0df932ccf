"""A batch on its way through encoder, decoder and search."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Set, Tuple, Union

import torch
from fairseq.search import BeamSearch
from torch import Tensor

from fairseq_el.errors import ConstraintsError
from fairseq_el.generation.batch import WholeBatch, longest_output, prompt_lengths, read_lengths, source_of
from fairseq_el.generation.beams import Beams, Candidates, EndedHypotheses, Hypotheses
from fairseq_el.generation.best_candidates import best_candidates
from fairseq_el.generation.ensemble import EnsembleDecoder
from fairseq_el.generation.forced_prefix import Prompt
from fairseq_el.generation.length_limits import Limits


class NoWordLeftError(AssertionError):
    """No hypothesis of some sentences can end, because every word has a score of minus infinity."""

    def __init__(self, sentences: List[int]):
        """``sentences``: of the batch, if it is known which."""
        super().__init__(f"sentences {sentences} of the batch have no hypothesis")
        self.sentences = sentences


class BatchDecoding:
    """What fairseq's ``SequenceGenerator._generate`` does, step by step, for any of fairseq's search strategies.

    Symbols: ``B`` sentences still decoded, ``b`` beams, ``V`` words of the vocabulary, ``n`` source length.

    Attributes:
        scores_prompts: whether the scores of hypotheses count forced words.
    """

    scores_prompts = True

    def __init__(
        self,
        generator: Any,
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor],
        constraints: Optional[Tensor],
        bos_token: Union[int, Tensor, None],
    ):
        """``bos_token``: the first symbol, of all sentences or of each ``(B)``; by default the eos."""
        self.generator = generator
        source, self.src_lengths = source_of(sample, generator.pad, generator.eos)
        num_sentences, src_len = source.shape[:2]
        if constraints is not None and not generator.search.supports_constraints:
            raise ConstraintsError(
                f"{type(generator.search).__name__} can't be held to constraints, and the batch has some: "
                "decode with --constraints (and without --sampling and other searches), or leave constraints out."
            )
        generator.search.init_constraints(constraints, generator.beam_size)
        self.prefix_tokens = prefix_tokens
        self.whole = WholeBatch.of_part(sample)  # None unless this is a part of a batch
        self.max_len = (
            longest_output(generator, src_len, self.src_lengths, prefix_tokens)
            if self.whole is None
            else self.whole.max_len
        )
        self.limits = self._limits(num_sentences, source.device)
        self.sentences = list(range(num_sentences))  # of the batch, that are still decoded
        self.finished: Set[int] = set()  # some of these may be among them: see _worth_dropping
        self.ids = (
            sample["id"] if isinstance(sample.get("id"), Tensor) else torch.arange(num_sentences).to(source.device)
        )
        first = torch.full((num_sentences,), generator.eos, device=source.device)
        if bos_token is not None:
            first[:] = bos_token
        self.beams = Beams(num_sentences, generator.beam_size, self.max_len, generator.pad, first, source.device)
        self.ended = EndedHypotheses(num_sentences)
        self.decoders = EnsembleDecoder(generator, source, self.max_len + 1)
        self.decoders.encode(sample["net_input"], source, generator.encoder_tokens)
        self.prompt = self._read_prompt(first) if self.decoders.all_share else None

    def run(self) -> Hypotheses:
        first_step = 0 if self.prompt is None else self.prompt.first_step
        for step in range(first_step, self.max_len + 1):  # one more than max_len, for eos
            outputs, attn = self._decode(step)
            self.beams.record_attention(step + 1, attn)
            candidates = self._search(step, outputs)
            if self.generator.on_step is not None:
                self.generator.on_step(step, self.decoders.states)
            ended, remaining = self._end(step, candidates)
            if not remaining or (self.generator.search.stop_on_max_len and step >= self.max_len):
                break
            if step >= self.max_len:
                raise NoWordLeftError([self.sentences[i] for i in remaining])
            kept = None
            if self._worth_dropping(step, len(self.sentences) - len(remaining)):
                kept = torch.tensor(remaining, device=ended.device)
                candidates, ended = candidates.of(kept), ended.index_select(0, kept)
                self._keep(remaining, kept)
            self._advance(step, candidates, ended, kept)
        return self.ended.best_first()

    def _limits(self, num_sentences: int, device: torch.device) -> Optional[Limits]:
        """Where they are not the same for all sentences: with limits of what follows a prompt."""
        generator = self.generator
        at_least, at_most = generator.min_new_tokens, generator.max_new_tokens
        if at_least is None and at_most is None:
            return None
        prompts = prompt_lengths(generator, self.prefix_tokens)
        may_end = [max(generator.min_len, length + (at_least or 0)) for length in prompts]
        last = [self.max_len if at_most is None else min(length + at_most - 1, self.max_len) for length in prompts]
        return Limits(prompts, may_end, last, device)

    def _read_prompt(self, first: Tensor) -> Prompt:
        """The first symbol, and the prefix where it can be read at once; else the search is forced along it."""
        generator = self.generator
        words = self.beams.tokens[:: generator.beam_size, :0]
        lengths = None
        if self.prefix_tokens is not None and (self.whole is None or self.whole.reads_prefixes):
            lengths = read_lengths(generator, self.prefix_tokens, self.max_len)
            if lengths is not None:
                words = self.prefix_tokens[:, : max(lengths)]
        # Plain beam search has nothing to do within prompts; the other strategies may draw random numbers.
        skips = lengths is not None and type(generator.search) is BeamSearch
        prompt = Prompt(words, lengths, first_step=min(lengths) if skips and lengths else 0)
        prompt.read(self.decoders, first, generator, self.scores_prompts)
        if prompt.first_step > 0:
            assert prompt.log_probs is not None
            begun = slice(0, prompt.first_step)
            self.beams.begin_with(prompt.words[:, begun], prompt.log_probs[:, begun])
            if prompt.attention is not None:
                for position in range(prompt.first_step):
                    attn = prompt.attention[:, position].repeat_interleave(generator.beam_size, dim=0)
                    self.beams.record_attention(position + 1, attn)
        return prompt

    def _decode(self, step: int) -> Tuple[Optional[List[Tensor]], Optional[Tensor]]:
        """Outputs of each model for all beams, or None if all sentences are within their prompts; attention."""
        tokens, need_attn = self.beams.tokens[:, : step + 1], self.generator.record_attention
        prompt = self.prompt
        if prompt is None:
            return self.decoders.step(tokens, None, need_attn)
        outputs, attn = None, None
        if prompt.shortest < step:
            outputs, attn = self.decoders.step(tokens, prompt.in_search(step), need_attn)
        attn = prompt.add_attention(step, attn, self.generator.beam_size)
        if step in prompt.lengths:
            outputs = prompt.add_first(step, self.decoders, outputs)
        if prompt.longest == step:
            for model in self.decoders.models:
                model.keep_first(None)
        return outputs, attn

    def _search(self, step: int, outputs: Optional[List[Tensor]]) -> Candidates:
        """Candidates from the search strategy; plain beam search sees a part of the sentences at a time."""
        generator, beams = self.generator, self.beams
        if generator.should_set_src_lengths:
            generator.search.set_src_lengths(self.src_lengths)
        num_sentences, beam_size = beams.num_sentences, generator.beam_size
        part_size = num_sentences
        if type(generator.search) is BeamSearch and self.decoders.all_share and outputs is not None:
            part_size = max(generator.output_rows(outputs[0].size(2)) // beam_size, 1)
        search = self._best if self._is_plain(step, outputs) else self._search_log_probs
        found = []
        for begin in range(0, num_sentences, part_size):
            part = slice(begin, min(begin + part_size, num_sentences))
            rows = slice(part.start * beam_size, part.stop * beam_size)
            found.append(search(step, None if outputs is None else [output[rows] for output in outputs], part, rows))
        return Candidates(*(torch.cat(tensors) if len(tensors) > 1 else tensors[0] for tensors in zip(*found)))

    def _is_plain(self, step: int, outputs: Optional[List[Tensor]]) -> bool:
        """Whether this is plain beam search, outside of prefixes."""
        generator = self.generator
        return (
            outputs is not None
            and type(generator.search) is BeamSearch
            and not self._in_prefix(step)
            and 2 * generator.beam_size < generator.vocab_size
        )

    def _best(self, step: int, outputs: Optional[List[Tensor]], part: slice, rows: slice) -> Candidates:
        generator, beams = self.generator, self.beams
        log_probs = self._under_rules(step, self._log_probs(step, outputs, rows), part, rows)
        beams.scores = beams.scores.type_as(log_probs)
        scores = beams.scores[rows, step - 1] if step > 0 else None
        # In 16 bits EL models round otherwise than stock, and scores are often equal.
        settle_ties = not self.decoders.is_softmax or outputs is None or outputs[0].element_size() > 2
        return best_candidates(log_probs, scores, generator.search, generator.beam_size, settle_ties)

    def _search_log_probs(self, step: int, outputs: Optional[List[Tensor]], part: slice, rows: slice) -> Candidates:
        generator, beams = self.generator, self.beams
        log_probs = self._under_rules(step, self._log_probs(step, outputs, rows), part, rows)
        beams.scores = beams.scores.type_as(log_probs)
        return Candidates(
            *generator.search.step(
                step,
                log_probs.view(part.stop - part.start, -1, generator.vocab_size),
                beams.scores[rows].view(part.stop - part.start, generator.beam_size, -1)[:, :, :step],
                beams.tokens[rows, : step + 1],
                self.ids[part],
            )
        )

    def _log_probs(self, step: int, outputs: Optional[List[Tensor]], rows: slice) -> Tensor:
        """Log-probabilities ``(rows, V)`` under the rules that are the same in every step.

        A row that is NaN everywhere may stay so in plain beam search, which looks for it itself.
        """
        generator, beams = self.generator, self.beams
        if outputs is None:
            shape = (rows.stop - rows.start, generator.vocab_size)
            return torch.full(shape, float("-inf"), device=beams.tokens.device)
        log_probs = self.decoders.log_probs(outputs, generator.temperature)
        if generator.lm_model is not None:
            log_probs += generator.language_model_log_probs(beams.tokens[rows, : step + 1])
        elif self.decoders.is_softmax and self._is_plain(step, outputs):
            return generator.penalized(log_probs)
        return generator.adjusted(log_probs)

    def _in_prefix(self, step: int) -> bool:
        prefix = self.prefix_tokens
        return prefix is not None and step < prefix.size(1) and step < self.max_len

    def _under_rules(self, step: int, scores: Tensor, part: slice, rows: slice) -> Tensor:
        """What fairseq forbids or forces in this step, in its order.

        Args:
            scores: of the next word, changed in place. *Shape:* ``(rows, V)``.
        """
        generator, beams = self.generator, self.beams
        read_prompt = self.prompt is not None and self.prompt.log_probs is not None
        blocks_first = read_prompt and not generator.ngram_blocking_as_stock  # a forced word may repeat what it likes
        if blocks_first:
            generator.block_ngrams(scores, beams.tokens[rows], step)
        self._limit(step, scores, part)
        if self._in_prefix(step):
            if read_prompt:
                self.prompt.force(step, scores, part, generator.beam_size)  # type: ignore[union-attr]
            else:  # writes to the rows of scores and tokens too
                prefix = self.prefix_tokens[part]  # type: ignore[index]
                forced = (beams.scores[rows], beams.tokens[rows], prefix, generator.beam_size)
                try:
                    scores, _, _ = generator._prefix_tokens(step, scores, *forced)
                except AssertionError as error:  # a hypothesis has not followed its prefix: it could not
                    raise NoWordLeftError([]) from error
        else:
            if step < generator.min_len:
                scores[:, generator.eos] = float("-inf")
            if generator.token_indices_to_suppress is not None:
                scores[:, generator.token_indices_to_suppress] = float("-inf")
        if not blocks_first:
            generator.block_ngrams(scores, beams.tokens[rows], step)
        return scores

    def _limit(self, step: int, scores: Tensor, part: slice) -> None:
        """Leaves the eos alone in the last step, and takes it away where it is too early after a prompt."""
        generator, limits = self.generator, self.limits
        if step >= self.max_len:
            scores[:, : generator.eos] = float("-inf")
            scores[:, generator.eos + 1 :] = float("-inf")
        if limits is None:
            return
        ending = limits.ending(step, part, generator.beam_size)
        if ending is not None:
            eos = scores[:, generator.eos].clone()
            scores.masked_fill_(ending, float("-inf"))
            scores[:, generator.eos] = eos
        too_early = limits.too_early(step, part, generator.beam_size)
        if too_early is not None:
            scores[:, generator.eos].masked_fill_(too_early.squeeze(1), float("-inf"))

    def _last_step(self, sentence: int) -> int:
        """Of a sentence, by its number among those that are still decoded."""
        return self.max_len if self.limits is None else self.limits.last[sentence]

    def _end(self, step: int, candidates: Candidates) -> Tuple[Tensor, List[int]]:
        """Takes out the hypotheses that end here.

        Returns:
            which candidates end, ``(B, c)``, and which of the ``B`` sentences are not finished.
        """
        generator, beams, beam_size = self.generator, self.beams, self.generator.beam_size
        ended = candidates.tokens.eq(generator.eos) & candidates.scores.ne(float("-inf"))
        ended[:, :beam_size] &= ~beams.ignore
        on_host = ended[:, :beam_size].cpu().numpy()  # the one time in a step that the host waits for the device
        found = list(zip(*(indices.tolist() for indices in on_host.nonzero())))  # sentence by sentence, best first
        taken: List[Tuple[int, int]] = []
        count = {i: self.ended.count(self.sentences[i]) for i, _ in found}
        for i, candidate in found:
            if count[i] < beam_size:
                count[i] += 1
                taken.append((i, candidate))
        if taken:
            self._take(step, candidates, taken)
        self.finished |= {self.sentences[i] for i in count if count[i] == beam_size or step >= self._last_step(i)}
        return ended, [i for i, sentence in enumerate(self.sentences) if sentence not in self.finished]

    def _take(self, step: int, candidates: Candidates, taken: List[Tuple[int, int]]) -> None:
        """Adds candidates, given by sentence and rank, to the hypotheses that have ended."""
        generator, beams = self.generator, self.beams
        sentences, ranks = torch.tensor(taken, device=candidates.scores.device).unbind(dim=1)
        rows = candidates.beams[sentences, ranks] + sentences * generator.beam_size
        scores = candidates.scores[sentences, ranks]
        tokens = beams.tokens.index_select(0, rows)[:, 1 : step + 2]
        tokens[:, step] = generator.eos
        positional = beams.scores.index_select(0, rows)[:, : step + 1]
        positional[:, step] = scores
        positional[:, 1:] = positional[:, 1:] - positional[:, :-1]  # from cumulative to each word's own
        if generator.normalize_scores:
            scores = scores / (step + 1) ** generator.len_penalty
        if generator.match_source_len:
            scores = scores.masked_fill(step > self.src_lengths.index_select(0, sentences), float("-inf"))
        attn = None
        if beams.attention is not None:
            attn = beams.attention.index_select(0, rows)[:, :, 1 : step + 2]
        self.ended.add([self.sentences[i] for i, _ in taken], tokens, scores, positional, attn)

    def _worth_dropping(self, step: int, num_finished: int) -> bool:
        """Whether to drop finished sentences now: an eighth at a time, because it moves the state of all others.

        Not where a finished sentence would leave traces: search strategies and dropout (with which beams share no
        past) draw random numbers for it, and within prefixes fairseq checks what it has written.
        """
        leaves_traces = type(self.generator.search) is not BeamSearch or not self.decoders.all_share
        if leaves_traces or self._in_prefix(step + 1):
            return num_finished > 0
        return 8 * num_finished >= len(self.sentences)

    def _keep(self, remaining: List[int], kept: Tensor) -> None:
        """Drops finished sentences everywhere, except in the decoders, which are told with the new order of beams."""
        self.generator.search.prune_sentences(kept)
        self.sentences = [self.sentences[i] for i in remaining]
        self.ids = self.ids.index_select(0, kept.to(self.ids.device))
        self.src_lengths = self.src_lengths.index_select(0, kept)
        self.beams.keep(kept)
        if self.prefix_tokens is not None:
            self.prefix_tokens = self.prefix_tokens.index_select(0, kept)
        if self.limits is not None:
            self.limits.keep(remaining, kept)
        if self.prompt is not None:
            self.prompt.keep(remaining, kept)
            for model in self.decoders.models:
                model.keep_first(kept)

    def _advance(self, step: int, candidates: Candidates, ended: Tensor, kept: Optional[Tensor]) -> None:
        active, beams = self.beams.advance(step, candidates, ended)
        self.generator.search.update_constraints(active)
        if kept is None:
            kept = torch.arange(self.beams.num_sentences, device=beams.device)
        self.decoders.reorder((beams + kept.unsqueeze(1) * self.generator.beam_size).view(-1))
