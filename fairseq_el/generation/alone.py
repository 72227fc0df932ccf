"""Sentences that are decoded together, each as if it were a batch of its own.

In stock, other sentences of a batch decide how long outputs may be, where rules hold, and which random numbers are
drawn. Where ``alone`` is set, none of this depends on them:

- ``--max-len-a`` goes by a sentence's own length, and rules hold from the end of its own prompt;
- sampling draws from a generator of each sentence's own.

So its hypotheses are those of stock's generator for a batch of that sentence, called after
``torch.manual_seed(sentence_seed(seed, number))``. Only rounding may differ. Attention of hypotheses keeps the columns
of padding.

Whatever else draws random numbers, such as retained dropout or a hook, is noticed. Sentences are then decoded one by
one. So is speech, because padding has a part in what convolutions give.
"""

from __future__ import annotations

import logging
from typing import Any, Dict, Optional

import torch
from torch import Tensor

from fairseq_el.decoding import is_features
from fairseq_el.errors import NoHypothesisError
from fairseq_el.generation.batch import Sample, WholeBatch, batch_of_one, rows_of, source_in, words_within
from fairseq_el.generation.hypotheses import Hypotheses
from fairseq_el.generation.random_numbers import RandomState, seed_generators, sentence_seed
from fairseq_el.generation.rules import SearchRules

logger = logging.getLogger(__name__)


def decode_alone(generator: Any, sample: Sample, **options: Any) -> Hypotheses:
    """The hypotheses of each sentence, as a batch of its own would have them.

    Args:
        generator: an :class:`~fairseq_el.generation.ELSequenceGenerator`.
        options: of its ``_decode``; prefixes and constraints have a row per sentence.
    """
    before = RandomState(source_in(sample).device)
    with before.restored():
        if source_in(sample).size(0) > 1 and not _needs_one_by_one(generator, sample, options):
            found = _together(generator, before, sample, options)
            if found is not None:
                return found
        return _one_by_one(generator, sample, options)


def _together(generator: Any, before: RandomState, sample: Sample, options: Dict[str, Any]) -> Optional[Hypotheses]:
    """The hypotheses; None if random numbers were drawn that are not those of single sentences."""
    try:
        found: Hypotheses = generator._decode(sample, **options, alone=True)
    except NoHypothesisError:
        if not before.has_moved():
            raise
    else:
        if not before.has_moved():
            return found
    generator.__dict__["_draws"] = True
    logger.info("Sentences are decoded one by one, because random numbers are drawn for the whole batch")
    return None


def _needs_one_by_one(generator: Any, sample: Sample, options: Dict[str, Any]) -> bool:
    """Returns whether numbers were drawn before, or the padding of features or prefixes decides for all together."""
    if generator.__dict__.get("_draws", False) or is_features(source_in(sample)):
        return True
    rules, prefix_tokens = SearchRules.of(generator), options.get("prefix_tokens")
    if rules.ngram_blocker is None or rules.blocks_ngrams_as_stock or prefix_tokens is None:
        return False
    return not WholeBatch.of(rules, sample, prefix_tokens).reads_prefixes


def _one_by_one(generator: Any, sample: Sample, options: Dict[str, Any]) -> Hypotheses:
    source, ids = source_in(sample), sample.get("id")
    num_sentences = source.size(0)
    numbers = ids.tolist() if isinstance(ids, torch.Tensor) else range(num_sentences)
    result: Hypotheses = []
    for i, number in enumerate(numbers):
        rows = slice(i, i + 1)
        seed_generators(source.device, sentence_seed(generator.seed, number))
        own_options = {name: rows_of(value, rows, num_sentences) for name, value in options.items()}
        prefix = own_options.get("prefix_tokens")
        if prefix is not None:
            own_options["prefix_tokens"] = prefix[:, : words_within(prefix, generator.pad)[0].stop]
        one = batch_of_one(sample, i, generator.pad)
        found: Hypotheses = generator._decode(one, **own_options)
        for hypothesis in found[0]:
            hypothesis["attention"] = _as_in_batch(hypothesis["attention"], source[i], generator.pad)
        result += found
    return result


def _as_in_batch(attention: Tensor, source: Tensor, pad: int) -> Tensor:
    """Attention ``(n', t)`` to the words of a source, with zeros for its padding in the batch: ``(n, t)``."""
    if attention.numel() == 0 or source.dim() > 1:
        return attention
    padded = attention.new_zeros(source.size(0), attention.size(1))
    padded[words_within(source.unsqueeze(0), pad)[0]] = attention
    return padded
