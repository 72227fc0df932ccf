"""The results of steps on a device, copied to the host, which puts hypotheses together from them.

Steps overwrite their results. So each step's are copied to the host, which reads them a step later. A hypothesis is
found by going back from its last word to the beams that it continues.

Symbols: ``B`` sentences, ``b`` beams, ``H`` hypotheses.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import numpy as np
import torch
from torch import Tensor

from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.hypotheses import Beams, NoWordLeftError, hypothesis
from fairseq_el.generation.rules import SearchRules


class _Step(NamedTuple):
    """Copies of a step's results, on the host as soon as ``copied`` has happened."""

    integers: Tensor  # (4, B, b), as StaticStep has them
    scores: Tensor  # (2, B, b)
    sentences: List[int]  # that the B rows are of
    copied: Optional[Any]  # an event on the device

    def on_host(self) -> Tuple[Any, Any]:
        """Returns integers and scores as arrays. Waits for them."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.integers.numpy(), self.scores.numpy()


class _Ended(NamedTuple):
    """A hypothesis that has ended."""

    sentence: int
    step: int  # that appended its last word, counted from the first one here
    beam: int  # that it continued
    score: float  # cumulative


class History:
    """All steps of a batch after the first ones, on the host.

    Sentences are numbers in the batch.
    """

    def __init__(self, rules: SearchRules, batch: ActiveBatch, beams: Beams, first: int, counts: List[int]):
        """
        Args:
            beams: before the first step; copied.
            first: the number of the first step, from 1.
            counts: the hypotheses of each sentence that have ended before.
        """
        self._rules, self._batch, self._first = rules, batch, first
        self._begun = list(batch.sentences)
        self._tokens = beams.tokens[:, 1 : first + 1].clone()  # (B*b, first)
        self._cumulative = beams.scores[:, :first].clone()  # (B*b, first)
        self._sentences = list(batch.sentences)
        self._last = {sentence: batch.last_step(i) for i, sentence in enumerate(batch.sentences)}
        self._counts = counts
        self._finished: Set[int] = set(batch.finished)
        num_steps, width, on_card = batch.max_len + 1 - first, len(self._begun) * rules.beam_size, beams.tokens.is_cuda
        # Copies to pinned memory do not keep the host waiting.
        self._integers = torch.empty(num_steps, 4 * width, dtype=torch.long, pin_memory=on_card)
        self._scores = torch.empty(num_steps, 2 * width, dtype=beams.scores.dtype, pin_memory=on_card)
        self._steps: List[_Step] = []
        self._num_read = 0
        self._ended: List[_Ended] = []

    def add(self, integers: Tensor, scores: Tensor) -> None:
        """Copies the results of the next step, without waiting for them."""
        number = len(self._steps)
        rooms = zip((self._integers[number], self._scores[number]), (integers, scores))
        copies = [room[: tensor.numel()].view(tensor.shape) for room, tensor in rooms]
        for copy, tensor in zip(copies, (integers, scores)):
            copy.copy_(tensor, non_blocking=True)
        copied = None
        if integers.is_cuda:
            copied = torch.cuda.Event()
            copied.record()
        self._steps.append(_Step(copies[0], copies[1], self._sentences, copied))

    def read(self, lag: int) -> None:
        """Takes the hypotheses that ended in all steps but the last ``lag``. Waits for these steps.

        Raises:
            NoWordLeftError: no hypothesis has ended in the step that appends a sentence's last word.
        """
        beam_size = self._rules.beam_size
        for number in range(self._num_read, len(self._steps) - lag):
            integers, scores = self._steps[number].on_host()
            sentences = self._steps[number].sentences
            places, ranks = integers[3].nonzero()  # sentence by sentence, best first
            step = self._first + number
            finished = set()  # with this step
            for i, rank in zip(places.tolist(), ranks.tolist()):
                sentence = sentences[i]
                if sentence in self._finished:  # it was decoded for a step too many
                    continue
                if self._counts[sentence] < beam_size:
                    self._counts[sentence] += 1
                    beam, score = integers[2, i, rank], scores[1, i, rank]
                    self._ended.append(_Ended(sentence, number, int(beam), score))
                if step >= self._last[sentence] or self._counts[sentence] == beam_size:
                    finished.add(sentence)
            self._finished |= finished
            stuck = [s for s in sentences if s not in self._finished and step >= self._last[s]]
            if stuck and (self._rules.alone or step >= self._batch.max_len):
                raise NoWordLeftError(stuck)
        self._num_read = max(self._num_read, len(self._steps) - lag)

    def unfinished(self) -> List[int]:
        """Sentences that may have more hypotheses, as far as the steps were read."""
        return [sentence for sentence in self._sentences if sentence not in self._finished]

    def kept(self, size: int) -> List[int]:
        """The places of ``size`` sentences of the present ones, ascending: all unfinished ones, and some others."""
        places = [i for i, sentence in enumerate(self._sentences) if sentence not in self._finished]
        others = [i for i, sentence in enumerate(self._sentences) if sentence in self._finished]
        return sorted(places + others[: size - len(places)])

    def keep(self, places: List[int]) -> None:
        """Tells which sentences the steps that follow are of, by their present places."""
        self._sentences = [self._sentences[i] for i in places]

    def hypotheses(self) -> Iterator[Tuple[int, Dict[str, Any]]]:
        """Yields each hypothesis with its sentence, in the order in which they ended, on the device."""
        if not self._ended:
            return
        words, cumulative = self._traced()
        device, first = self._tokens.device, self._first
        lengths = [first + ended.step + 1 for ended in self._ended]
        positional = cumulative.copy()
        positional[:, 1:] -= cumulative[:, :-1]  # from cumulative to each word's own
        on_device = torch.from_numpy(words).to(device), torch.from_numpy(positional).to(device)
        scores = self._compared(lengths).to(device)
        for k, (ended, length) in enumerate(zip(self._ended, lengths)):
            yield ended.sentence, hypothesis(on_device[0][k, :length], scores[k], on_device[1][k, :length])

    def _compared(self, lengths: List[int]) -> Tensor:
        """The scores by which hypotheses are compared. *Shape:* ``(H)``."""
        rules, batch = self._rules, self._batch
        scores = torch.from_numpy(np.array([ended.score for ended in self._ended]))
        scores = torch.stack([rules.normalized(score, length) for score, length in zip(scores, lengths)])
        if rules.match_source_len:
            src_lengths = dict(zip(batch.sentences, batch.src_lengths.tolist()))
            too_long = [length - 1 > src_lengths[ended.sentence] for ended, length in zip(self._ended, lengths)]
            scores = scores.masked_fill(torch.tensor(too_long), float("-inf"))
        return scores

    def _traced(self) -> Tuple[Any, Any]:
        """Words and cumulative scores of all hypotheses, from the last word to the first. *Shape:* ``(H, t)`` each."""
        beam_size, first, steps = self._rules.beam_size, self._first, self._steps
        last = np.array([ended.step for ended in self._ended])
        beams = np.array([ended.beam for ended in self._ended])
        sentences = np.array([ended.sentence for ended in self._ended])
        found_scores = np.array([ended.score for ended in self._ended])
        words = np.full((len(last), first + int(last.max()) + 1), self._rules.pad)
        cumulative = np.zeros(words.shape, found_scores.dtype)
        everyone = np.arange(len(last))
        words[everyone, first + last], cumulative[everyone, first + last] = self._rules.eos, found_scores
        places = np.zeros(max(len(self._counts), 1), np.int64)  # of sentences, in the step at hand
        for number in range(int(last.max()) - 1, -1, -1):
            integers, scores = steps[number].on_host()
            places[steps[number].sentences] = np.arange(len(steps[number].sentences))
            there = everyone[last > number]
            rows = places[sentences[there]]
            words[there, first + number] = integers[0, rows, beams[there]]
            cumulative[there, first + number] = scores[0, rows, beams[there]]
            beams[there] = integers[1, rows, beams[there]]
        places[self._begun] = np.arange(len(self._begun))
        rows = places[sentences] * beam_size + beams
        words[:, :first] = self._tokens.cpu().numpy()[rows]
        cumulative[:, :first] = self._cumulative.cpu().numpy()[rows]
        return words, cumulative
