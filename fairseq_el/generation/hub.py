"""Turning EL-attention on and off in models, and in hub interfaces with the generators that they build.

A hub interface asks its task for a generator in every call. While EL-attention is enabled the task's
``build_generator`` is shadowed on the instance, as methods of models are. What was there before is put back.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fairseq.hub_utils import GeneratorHubInterface

from fairseq_el import decoding
from fairseq_el.generation.generator import ELSequenceGenerator, build_el_generator

Models = TypeVar("Models")

_IS_FOLLOWED = "_el_generators"  # on a hub interface: its task builds EL generators for it


def enable_el_attention(models: Models, backend: str | None = None, self_attention: str | None = None) -> Models:
    """Makes models decode with EL-attention and a past that beams share, in place.

    They can be trained, saved, moved, converted to half precision and reloaded as before. A hub interface, such as the
    one ``BARTModel.from_pretrained`` returns, decodes as the tasks ``el_*`` do: ``no_repeat_ngram_size`` blocks
    n-grams, and language models read their prompt in one pass.

    Args:
        models: a fairseq Transformer, with an encoder or a language model without, a list of them (an ensemble), or a
            hub interface. SLiM Performers are left as they are.
        backend: what cross-attention keeps of the source: ``"el"`` nothing but the encoder's output; ``"shared-kv"``
            keys and values of every layer, once for all beams: ``2 L`` times as much memory and less arithmetic;
            ``"auto"`` chooses for every batch. Default: ``"el"``, or as it is in a model that has it enabled.
        self_attention: what decoder self-attention keeps of each word: ``"el"`` the layer's input, ``"kv"`` its key and
            value, twice as much and less to compute. Default: ``"kv"``, or as it is in a model that has it enabled.

    Returns:
        ``models``.

    Raises:
        UnsupportedModelError: a model can't be decoded exactly; it lists every reason. No model has been changed.
        NoKernelsError: a model is on a card that this torch was not built for. A model that is moved to such a card
            later raises it when it decodes.
        ValueError: ``backend`` or ``self_attention`` has another value.
    """
    decoding.enable_el_attention(models, backend, self_attention)
    if isinstance(models, GeneratorHubInterface) and not models.__dict__.get(_IS_FOLLOWED):
        task = models.task
        if not isinstance(task.build_generator, _Generators):
            task.build_generator = _Generators(task)
        task.build_generator.hubs += 1
        models.__dict__[_IS_FOLLOWED] = True
    return models


def disable_el_attention(models: Models) -> Models:
    """Puts models and hub interfaces back exactly as :func:`enable_el_attention` found them."""
    decoding.disable_el_attention(models)
    if isinstance(models, GeneratorHubInterface) and models.__dict__.pop(_IS_FOLLOWED, False):
        generators = models.task.build_generator
        if isinstance(generators, _Generators):  # not if a shallow copy of the interface has put it back already
            generators.leave(models.task)
    return models


class _Generators:
    """Stands in for a task's ``build_generator``; models without EL-attention get what it would give them.

    Attributes:
        hubs: interfaces with the task that have EL-attention enabled.
    """

    def __init__(self, task: Any):
        self.hubs = 0
        self.own = task.__dict__.get("build_generator")
        self.build = task.build_generator

    def __call__(self, models: Any, args: Any, *more: Any, **kwargs: Any) -> Any:
        enabled = any(decoding.el_attention_enabled(model) for model in decoding.models_in(models))
        if not enabled:
            return self.build(models, args, *more, **kwargs)
        generator = build_el_generator(self.build, models, args, *more, **kwargs)
        if isinstance(generator, ELSequenceGenerator):  # an interface prints alignments, but no attention
            generator.record_attention = bool(getattr(args, "print_alignment", None))
        return generator

    def leave(self, task: Any) -> None:
        """One interface less; after the last, the task is as it was."""
        self.hubs -= 1
        if self.hubs > 0:
            return
        del task.__dict__["build_generator"]
        if self.own is not None:
            task.build_generator = self.own
