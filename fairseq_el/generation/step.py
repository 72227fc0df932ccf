"""One step of the search for all beams: the interface between the search loop and the code that computes a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Optional

from torch import Tensor

from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.ensemble import EnsembleDecoder
from fairseq_el.generation.hypotheses import Beams, Candidates, Kept
from fairseq_el.generation.rules import SearchRules


class BeamStep(ABC):
    """The models, the rules for words and the strategy of a search, for one batch.

    :class:`~fairseq_el.generation.loop.SearchLoop` decides which hypotheses end and which sentences are finished. All
    that is computed for beams in between is behind this interface, so that other code can take the place of
    :class:`~fairseq_el.generation.reference_step.ReferenceStep`. That one decodes everything, and others must give the
    same results. :func:`~fairseq_el.generation.choice.choose_search` says which one a batch gets. What does all steps
    in one call takes the place of the loop: :class:`~fairseq_el.generation.batch_search.BatchSearch`.

    The loop calls, in this order::

        begin()                                      once
        for every step, from the first to max_len:
            candidates(step)
            worth_dropping(step, number)             unless the batch ends here
            advance(step, candidates, ended, kept)

    Symbols: ``B`` sentences still decoded, ``b`` beams, ``c`` candidates (``2 b``, or what the strategy gives), ``n``
    positions of the source.

    **Shapes and dtypes.** Rows of beams are ``B * b``, beams of a sentence side by side, sentences in the order of
    ``batch.sentences``. Words are int64. Scores are cumulative log-probabilities, in the dtype that the models' are in,
    or float32 before the first. A candidate with a score of minus infinity does not count. No score is NaN.

    **Shared.** The loop reads :attr:`beams` between :meth:`candidates` and :meth:`advance`, and keeps none of its
    tensors: what it takes, it copies. So they may be the same storage in every step, and so may those of
    :class:`Candidates`, which must stay as they are until :meth:`advance` returns. ``batch`` belongs to the loop;
    steps only read it.

    **Sentences leave** only in :meth:`advance`. The loop drops them from ``batch`` right before. Until then a finished
    sentence is decoded like the others, and whatever is computed for it is ignored.

    **Waiting.** The loop waits for the device once in a step, for the candidates that end. A step must not wait, or
    rarely: the reference does where pools are full.

    **Assumptions.** Gradients are off. Models and rules do not change while a batch is decoded. A batch that fails (out
    of memory, no hypothesis) is decoded again by new objects; the strategy is the same object, and :meth:`begin` starts
    it anew.

    Attributes:
        beams: words, scores and attention of the hypotheses under way; current from :meth:`begin` on.
    """

    beams: Beams

    def __init__(self, rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder):
        """Nothing is computed yet."""
        self.rules = rules
        self.batch = batch
        self.decoders = decoders

    @classmethod
    @abstractmethod
    def refusal(cls, rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder) -> Optional[str]:
        """The reason why this class can't decode a batch, in half a sentence; None if it can. It must be cheap."""

    @abstractmethod
    def begin(self) -> int:
        """Encodes the source and reads the prompts.

        Returns:
            the first step: 0, or where the shortest prompt ends if it was read at once. :attr:`beams` has the words
            before it, with their scores.
        """

    @abstractmethod
    def candidates(self, step: int) -> Candidates:
        """The best continuations of every sentence by one word, under all rules.

        Args:
            step: number of the word, from 0; ``beams.tokens[:, : step + 1]`` are there, the first symbol included.

        Returns:
            for each sentence, best first. *Shape:* ``(B, c)`` each. If attention is recorded, :attr:`beams` has that
            of this word.
        """

    @abstractmethod
    def worth_dropping(self, step: int, num_finished: int) -> bool:
        """Returns whether finished sentences should leave now. ``num_finished``: so many are there, maybe none.

        Dropping moves the state of all others. Returning False until the end is correct, but computes in vain. A class
        must return True where the strategy or dropout would draw random numbers for finished sentences.
        """

    @abstractmethod
    def advance(self, step: int, candidates: Candidates, ended: Tensor, kept: Optional[Kept]) -> None:
        """Lets sentences leave, and continues each of the others with its ``b`` best candidates that have not ended.

        Afterwards :attr:`beams` has their words and scores, and all that the models keep follows them.

        Args:
            candidates, ended: as :meth:`candidates` has returned them, and which of them end their hypothesis; both
                without the sentences that leave. *Shape:* ``(B', c)``.
            kept: the ``B'`` sentences that stay; None if all stay, and ``B' = B``.
        """
