"""The search of one batch, from the source to its hypotheses.

:class:`SearchLoop` asks a step for candidates, and :class:`EndedHypotheses` takes those that end.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import torch
from torch import Tensor

from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.batch_search import BatchSearch
from fairseq_el.generation.hypotheses import Beams, Candidates, Hypotheses, Kept, NoWordLeftError, ending, hypothesis
from fairseq_el.generation.rules import SearchRules
from fairseq_el.generation.step import BeamStep
from fairseq_el.generation.transformers_search import RankedHypotheses


class SearchLoop(BatchSearch):
    """The search loop of fairseq's ``SequenceGenerator._generate``, for any of fairseq's search strategies.

    Symbols: ``B`` sentences still decoded, ``b`` beams, ``c`` candidates of a sentence.

    Attributes:
        step: computes the candidates of each step.
        ended: the hypotheses that have ended, and when a sentence is finished with them.
    """

    def __init__(self, rules: SearchRules, batch: ActiveBatch, step: BeamStep):
        super().__init__(rules, batch, step.decoders)
        self.step = step
        self.ended: Union[EndedHypotheses, RankedHypotheses]
        self.ended = (EndedHypotheses if rules.transformers is None else RankedHypotheses)(rules, batch)

    def run(self) -> Hypotheses:
        for _ in self.steps():
            pass
        return self.ended.best_first()

    def steps(self) -> Iterator[int]:
        """Decodes step by step. Yields the number of each step after which another one follows."""
        batch = self.batch
        # 1. Read the source, and the prompts.
        first_step = self.step.begin()
        for step in range(first_step, batch.max_len + 1):  # one more than max_len, for eos
            # 2. The best continuations of every sentence.  (B, c)
            candidates = self.step.candidates(step)
            # 3. Hypotheses end, and sentences are finished.  (B, c)
            ended = self.ended.end(step, candidates, self.step.beams)
            remaining = batch.remaining()
            if not remaining or (self.rules.strategy.stop_on_max_len and step >= batch.max_len):
                break
            stuck = [batch.sentences[i] for i in remaining if step >= batch.last_step(i)]
            if stuck and (self.rules.alone or step >= batch.max_len):
                raise NoWordLeftError(stuck)
            # 4. Finished sentences leave, a few at a time.  B -> B'
            kept: Optional[Kept] = None
            if self.step.worth_dropping(step, len(batch.sentences) - len(remaining)):
                kept = Kept(remaining, torch.tensor(remaining, device=ended.device))
                candidates, ended = candidates.of(kept), ended.index_select(0, kept.on_device)  # (B', c)
                self.ended.keep(kept)
                batch.keep(kept)
            # 5. The others continue with their b best candidates that have not ended.
            self.step.advance(step, candidates, ended, kept)
            yield step


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
        ended = ending(candidates, beams.ignore, self._rules.eos)  # (B, c)
        on_host = ended[:, :beam_size].cpu().numpy()  # the one time in a step that the host waits for the device
        found = [  # sentence by sentence, best first
            (i, candidate)
            for i, candidate in zip(*(indices.tolist() for indices in on_host.nonzero()))
            if batch.sentences[i] not in batch.finished
        ]
        taken: List[Tuple[int, int]] = []
        count = {i: len(self._of_sentence[batch.sentences[i]]) for i, _ in found}
        for i, candidate in found:
            if count[i] < beam_size:
                count[i] += 1
                taken.append((i, candidate))
        if taken:
            self._take(step, candidates, beams, taken)
        batch.finished |= {batch.sentences[i] for i in count if count[i] == beam_size or step >= batch.last_step(i)}
        if self._rules.strategy.stop_on_max_len and self._rules.alone:
            batch.finished |= {each for i, each in enumerate(batch.sentences) if step >= batch.last_step(i)}
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
        for k, (i, _) in enumerate(taken):
            self._of_sentence[self._batch.sentences[i]].append(
                hypothesis(tokens[k], scores[k], positional[k], None if attn is None else attn[k])
            )

    def keep(self, kept: Kept) -> None:
        """Does nothing: hypotheses are kept by the number of their sentence in the whole batch."""

    def counts(self) -> List[int]:
        """Counts the hypotheses of each sentence of the batch."""
        return list(map(len, self._of_sentence))

    def add(self, sentence: int, found: Dict[str, Any]) -> None:
        """Adds a hypothesis, the last of its sentence so far."""
        self._of_sentence[sentence].append(found)

    def best_first(self) -> Hypotheses:
        """Returns all hypotheses. The host waits once for their scores."""
        all_scores = [hypothesis["score"] for hypotheses in self._of_sentence for hypothesis in hypotheses]
        on_host = torch.stack(all_scores).float().cpu() if all_scores else torch.empty(0)
        result = []
        for hypotheses, scores in zip(self._of_sentence, on_host.split([len(h) for h in self._of_sentence])):
            order = torch.sort(scores, descending=True)[1]  # stock's own call: equal scores stay in its order
            result.append([hypotheses[i] for i in order.tolist()])
        return result
