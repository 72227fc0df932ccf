"""Plain beam search on a card whose steps stay in place, so that CUDA graphs can replay them.

A step launches hundreds of kernels, and with few sentences the card waits for Python to launch them. A graph launches
them at once. What makes this possible, and what it costs:

- Storage is for more words and more sentences than are there. It changes where pools are full, and where half of the
  sentences are finished; a new graph is captured then.
- The host learns one step late which hypotheses have ended. A finished sentence may be decoded for a step too many,
  which changes no result. (:class:`~fairseq_el.generation.static_step.StaticStep` does not wait for the host.)
- Until all beams have left their prompts, :class:`~fairseq_el.generation.loop.SearchLoop` decodes.
"""

from __future__ import annotations

import logging
from typing import Callable, Iterator, Optional

import torch

from fairseq_el import policy
from fairseq_el.decoding import StaticState, is_plain_decoder_layer, self_attention_of
from fairseq_el.dtypes import place_of
from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.batch_search import BatchSearch, why_not_plain
from fairseq_el.generation.ensemble import EnsembleDecoder
from fairseq_el.generation.hypotheses import Beams, Hypotheses
from fairseq_el.generation.loop import EndedHypotheses, SearchLoop
from fairseq_el.generation.reference_step import ReferenceStep
from fairseq_el.generation.rules import SearchRules
from fairseq_el.generation.static_history import History
from fairseq_el.generation.static_step import StaticStep
from fairseq_el.generation.step_graph import captured, release_pool, stream_of_graphs, why_no_graphs
from fairseq_el.policy import LEAST_REPLAYS, static_sentences

logger = logging.getLogger(__name__)


class StaticSearch(BatchSearch):
    """Plain beam search of one EL model. Symbols: ``B`` sentences, ``b`` beams.

    Attributes:
        captures: whether steps are captured in graphs; otherwise all are launched from Python.
        any_device: whether it decodes on devices that have no graphs, as tests have it do.
    """

    captures = True
    any_device = False

    @classmethod
    def refusal(cls, rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder) -> Optional[str]:
        """The reason why steps of a batch can't stay in place, in half a sentence; None if they can.

        It is empty where nobody asked for graphs.
        """
        if not cls.any_device:
            if not decoders.uses_graphs:
                return ""
            if why_no_graphs(batch.device):
                return why_no_graphs(batch.device)
        return next((reason for reason in _reasons(rules, batch, decoders) if reason is not None), None)

    def run(self) -> Hypotheses:
        device = self.batch.device
        try:
            with stream_of_graphs(device):
                hypotheses = self._run()
        except BaseException:
            release_pool(device)
            raise
        _are_read_here(hypotheses, device)
        return hypotheses

    def _run(self) -> Hypotheses:
        # 1. The source, the prompts and the first own word of every sentence.
        present = ReferenceStep(self.rules, self.batch, self.decoders)
        loop = SearchLoop(self.rules, self.batch, present)
        assert isinstance(loop.ended, EndedHypotheses)
        for step in loop.steps():
            assert present.prompt is not None
            if not self.batch.in_prefix(step + 1) and present.prompt.longest <= step:
                # 2. All other words.
                self._decode(present.beams, loop.ended, step + 1)
                break
        return loop.ended.best_first()

    def _decode(self, beams: Beams, ended: EndedHypotheses, first: int) -> None:
        """All steps from ``first`` on."""
        batch, (decoder,) = self.batch, self.decoders.models
        steps_left = batch.max_len + 1 - first
        keeps_keys = self_attention_of(decoder.model) == "kv"
        dtype = place_of(decoder.model.decoder)[1]
        assert decoder.state is not None
        self._state = StaticState(decoder.state, steps_left, keeps_keys, dtype)
        self._step = StaticStep(self.rules, batch, self.decoders, beams, self._state, first)
        self._replay: Optional[Callable[[], None]] = None
        self._may_capture = self.captures and not why_no_graphs(batch.device)
        history = History(self.rules, batch, beams, first, ended.counts())
        for step in range(first, batch.max_len + 1):
            # 1. Room for another word of every beam.
            if self._state.tree.is_full and self._state.make_room(batch.max_len + 1 - step):
                self._replay = None
            # 2. A step, and what it tells the host, which does not wait for it.
            self._take(batch.max_len + 1 - step)
            history.add(self._step.integers, self._step.scores)
            self.decoders.measure([self._state])
            # 3. What the host knows by now: which hypotheses had ended in the step before.
            history.read(lag=1)
            unfinished = history.unfinished()
            if not unfinished:
                break
            # 4. Where half of the sentences are finished, the others go on alone.
            size = static_sentences(self._state.num_sentences, len(unfinished), self.rules.beam_size)
            if size < self._state.num_sentences:
                self._keep(history, size)
        history.read(lag=0)
        for sentence, found in history.hypotheses():
            ended.add(sentence, found)

    def _take(self, steps_left: int) -> None:
        """Computes a step: replays it, or launches it and then captures it for the steps that follow."""
        tree = self._state.tree
        if self._replay is not None:
            self._replay()
            tree.count_step()
            return
        self._step()
        tree.count_step()
        replays = min(steps_left - 1, (tree.capacity - tree.num_nodes) // tree.beam_size)
        if self._may_capture and replays >= LEAST_REPLAYS:
            try:
                self._replay = captured(self._step, self.batch.device)
            except RuntimeError as error:
                self._may_capture = False
                release_pool(self.batch.device)
                logger.warning(
                    "A step can't be captured in a CUDA graph (%s); it is launched from Python", _line(error)
                )

    def _keep(self, history: History, size: int) -> None:
        """Drops all but ``size`` sentences: finished ones, as far as there are enough of them."""
        kept = history.kept(size)
        self._step.keep(torch.tensor(kept, device=self.batch.device))
        history.keep(kept)
        self._replay = None


def uses_graphs(choice: str, device: torch.device) -> bool:
    """Returns whether ``--el-cuda-graphs`` asks for graphs on a device.

    ``"on"`` does everywhere; ``"auto"`` where there are graphs, if they are the default.
    """
    if choice == "auto":
        return policy.GRAPHS_BY_DEFAULT and not why_no_graphs(device)
    return choice == "on"


def _reasons(rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder) -> Iterator[Optional[str]]:
    """Each thing that steps in place do not do, or None where it is not asked for; the cheapest first."""
    reason = why_not_plain(rules, decoders)
    if reason is not None:
        yield reason
        return
    if 2 * rules.beam_size >= rules.vocab_size:
        yield f"{rules.beam_size} beams are many for a vocabulary of {rules.vocab_size}"
    if torch.is_grad_enabled():
        yield "gradients are recorded"
    if batch.prefix_tokens is not None and batch.forced_lengths(rules) is None:
        yield "prefixes can't be read in one pass"
    decoder = decoders.models[0].model.decoder
    if len(decoder.layers) == 0:
        yield "the decoder has no layers"
    if not all(map(is_plain_decoder_layer, decoder.layers)):
        yield "a layer has modules that fairseq's own has not"


def _are_read_here(hypotheses: Hypotheses, device: torch.device) -> None:
    """Tells torch's allocator that this stream reads hypotheses that were made on another one."""
    if device.type != "cuda":
        return
    stream = torch.cuda.current_stream(device)
    for found in (one for of_sentence in hypotheses for one in of_sentence):
        for name in ("tokens", "score", "positional_scores"):
            found[name].record_stream(stream)


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
