"""fairseq's sequence generators for EL models, stock models, and ensembles of both."""

from __future__ import annotations

from typing import Any, Dict, List

import torch
from fairseq.search import DiverseBeamSearch
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from torch import Tensor, nn

Hypotheses = List[List[Dict[str, Tensor]]]


class ELSequenceGenerator(SequenceGenerator):
    """fairseq's :class:`~fairseq.sequence_generator.SequenceGenerator`: same constructor, inputs and outputs.

    It decodes EL models, other fairseq models, and ensembles of both. Where stock goes wrong it does not:

    - the beam size is set in models that keep it (stock BART) before every batch, for beam size 1 too, so one model
      object can serve generators of different beam sizes;
    - diverse beam search works on every batch: stock 0.12.3 indexes a buffer of the batch by the sentences' numbers in
      the whole data set and ends in an IndexError where these exceed the batch's size; here they count from 0 then;
    - every hypothesis says in ``"steps"`` after how many steps it ended, so that ``--print-step`` works.
    """

    def _generate(self, sample: Dict[str, Any], *args: Any, **kwargs: Any) -> Hypotheses:
        for model in self.model.models:
            if hasattr(model, "set_beam_size"):
                model.set_beam_size(self.beam_size)
        if isinstance(self.search, DiverseBeamSearch):
            sample = _number_within_batch(sample)
        finalized = super()._generate(sample, *args, **kwargs)
        for hypotheses in finalized:
            for hypothesis in hypotheses:
                hypothesis["steps"] = hypothesis["tokens"].numel()
        return finalized


class ELSequenceGeneratorWithAlignment(SequenceGeneratorWithAlignment, ELSequenceGenerator):
    """The same for :class:`~fairseq.sequence_generator.SequenceGeneratorWithAlignment` (``--print-alignment``)."""


def _number_within_batch(sample: Dict[str, Any]) -> Dict[str, Any]:
    """The sample with sentences numbered from 0, if their numbers are not below the size of the batch already."""
    ids = sample.get("id")
    if ids is None or ids.numel() == 0 or int(ids.max()) < ids.numel():
        return sample
    return {**sample, "id": torch.arange(ids.numel(), device=ids.device)}


_EL_CLASSES = {
    SequenceGenerator: ELSequenceGenerator,
    SequenceGeneratorWithAlignment: ELSequenceGeneratorWithAlignment,
}


def el_generator(generator: Any) -> Any:
    """The EL generator with the settings of a stock one, for tasks that build their generator themselves.

    Args:
        generator: what a task's ``build_generator`` returned. A generator that is not one of fairseq's two sequence
            generators (a scorer, or a class of the user's own) is returned as it is; EL models work in it too.
    """
    el_class = _EL_CLASSES.get(type(generator))
    if el_class is None:
        return generator
    converted = el_class.__new__(el_class)
    nn.Module.__init__(converted)
    converted.__dict__.update(generator.__dict__)
    return converted
