"""The hypotheses that have ended, as fairseq counts them: a sentence is finished when it has as many as beams."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from fairseq_el.generation.active_batch import ActiveBatch
from fairseq_el.generation.beams import Beams, Candidates, Kept
from fairseq_el.generation.rules import SearchRules

Hypotheses = List[List[Dict[str, Any]]]  # of each sentence, best first, as fairseq's generators return them


class NoWordLeftError(AssertionError):
    """No hypothesis of some sentences can end, because every word has a score of minus infinity."""

    def __init__(self, sentences: List[int]):
        """``sentences``: of the batch, if it is known which."""
        super().__init__(f"sentences {sentences} of the batch have no hypothesis")
        self.sentences = sentences


class EndedHypotheses:
    """Hypotheses sentence by sentence; their tensors stay on the device until the end.

    Symbols: ``B`` sentences, ``b`` beams, ``c`` candidates of a sentence.
    """

    def __init__(self, rules: SearchRules, batch: ActiveBatch):
        self._rules = rules
        self._batch = batch
        self._of_sentence: Hypotheses = [[] for _ in batch.sentences]

    def end(self, step: int, candidates: Candidates, beams: Beams) -> Tensor:
        """Takes the hypotheses that end in this step, and notes the sentences that are finished with them.

        Args:
            candidates: best first. *Shape:* ``(B, c)`` each, ``c >= b``.
            beams: before they continue.

        Returns:
            which candidates end their hypothesis. *Shape:* ``(B, c)``.
        """
        batch, beam_size = self._batch, beams.beam_size
        ended = candidates.tokens.eq(self._rules.eos) & candidates.scores.ne(float("-inf"))  # (B, c)
        ended[:, :beam_size] &= ~beams.ignore
        on_host = ended[:, :beam_size].cpu().numpy()  # the one time in a step that the host waits for the device
        found = list(zip(*(indices.tolist() for indices in on_host.nonzero())))  # sentence by sentence, best first
        taken: List[Tuple[int, int]] = []
        count = {i: len(self._of_sentence[batch.sentences[i]]) for i, _ in found}
        for i, candidate in found:
            if count[i] < beam_size:
                count[i] += 1
                taken.append((i, candidate))
        if taken:
            self._take(step, candidates, beams, taken)
        batch.finished |= {batch.sentences[i] for i in count if count[i] == beam_size or step >= batch.last_step(i)}
        return ended

    def _take(self, step: int, candidates: Candidates, beams: Beams, taken: List[Tuple[int, int]]) -> None:
        """Adds ``k`` candidates, given by sentence and rank."""
        sentences, ranks = torch.tensor(taken, device=candidates.scores.device).unbind(dim=1)  # (k) each
        rows = candidates.beams[sentences, ranks] + sentences * beams.beam_size
        scores = candidates.scores[sentences, ranks]
        tokens = beams.tokens.index_select(0, rows)[:, 1 : step + 2]  # (k, t), t = step + 1
        tokens[:, step] = self._rules.eos
        positional = beams.scores.index_select(0, rows)[:, : step + 1]  # (k, t)
        positional[:, step] = scores
        positional[:, 1:] = positional[:, 1:] - positional[:, :-1]  # from cumulative to each word's own
        scores = self._rules.normalized(scores, step + 1)
        if self._rules.match_source_len:
            too_long = step > self._batch.src_lengths.index_select(0, sentences)
            scores = scores.masked_fill(too_long, float("-inf"))
        attn = None
        if beams.attention is not None:
            attn = beams.attention.index_select(0, rows)[:, :, 1 : step + 2]  # (k, n, t)
        self._add([self._batch.sentences[i] for i, _ in taken], tokens, scores, positional, attn)

    def _add(
        self, sentences: List[int], tokens: Tensor, scores: Tensor, positional: Tensor, attn: Optional[Tensor]
    ) -> None:
        nothing = torch.empty(0)
        for i, sentence in enumerate(sentences):
            self._of_sentence[sentence].append(
                {
                    "tokens": tokens[i],
                    "score": scores[i],
                    "attention": nothing if attn is None else attn[i],
                    "alignment": nothing,
                    "positional_scores": positional[i],
                    "steps": tokens.size(1),  # for --print-step
                }
            )

    def keep(self, kept: Kept) -> None:
        """Does nothing: hypotheses are kept by the numbers of their sentences, whoever leaves the search."""

    def best_first(self) -> Hypotheses:
        """Returns all hypotheses. The host waits once for their scores."""
        all_scores = [hypothesis["score"] for hypotheses in self._of_sentence for hypothesis in hypotheses]
        on_host = torch.stack(all_scores).float().cpu() if all_scores else torch.empty(0)
        result = []
        for hypotheses, scores in zip(self._of_sentence, on_host.split([len(h) for h in self._of_sentence])):
            order = torch.sort(scores, descending=True)[1]  # stock's own call: equal scores stay in its order
            result.append([hypotheses[i] for i in order.tolist()])
        return result
