"""The rules of a search: which words it may write, how long hypotheses are, and how they are compared.

:class:`SearchRules` is a value, made of a generator's settings once for every batch. Its rules for the next word are
applied by :class:`~fairseq_el.generation.word_rules.WordRules`. Where sentences of a batch have prompts, each has
:class:`LengthLimits` of its own.

Symbols: ``B`` sentences, ``b`` beams, ``V`` words of the vocabulary, ``rows`` hypotheses under way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Tuple, Union

import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.search import BeamSearch, Sampling
from torch import Tensor

from fairseq_el.errors import LengthLimitsError, OptionError
from fairseq_el.generation.hypotheses import Kept
from fairseq_el.generation.ngram_extension import has_ngram_extension
from fairseq_el.ops import block_repeated_ngrams


@dataclass(frozen=True)
class TransformersRules:
    """Settings of ``generate()`` that fairseq has no options for. Words are indices of fairseq's dictionary.

    Attributes:
        early_stopping: True, False or ``"never"``.
        forced_first: the first word of every hypothesis (``forced_bos_token_id``); prompts have none.
        forced_last: the last word of hypotheses as long as they may be (``forced_eos_token_id``).
        forbidden: sequences of words that no hypothesis has (``bad_words_ids``, ``suppress_tokens``).
        forbidden_first: words that no hypothesis begins with (``begin_suppress_tokens``).
        continues_prompts: scores and their lengths are of the words after the prompt, as of language models.
    """

    early_stopping: Union[bool, str] = False
    forced_first: Optional[int] = None
    forced_last: Optional[int] = None
    forbidden: Tuple[Tuple[int, ...], ...] = ()
    forbidden_first: Tuple[int, ...] = ()
    continues_prompts: bool = False


@dataclass(frozen=True, eq=False)
class SearchRules:
    """Everything that decides which hypotheses a search finds, beside the models and the batch.

    Attributes:
        strategy: fairseq's search strategy, an object of ``fairseq.search``, which may keep a state of its own.
        beam_size: ``b``.
        vocab_size: ``V``.
        pad, unk, eos: the words with a meaning of their own.
        min_len: words that a hypothesis must have, without eos.
        max_len_a, max_len_b: a hypothesis may have ``max_len_a * n + max_len_b`` words, for ``n`` positions of the
            source of the batch.
        max_positions: words that the decoder can write, the eos included.
        min_new_tokens, max_new_tokens: words that must and may follow a prompt, the eos included, or None.
        match_source_len: hypotheses have at most as many words as their sources.
        temperature: divides logits.
        unk_penalty: is subtracted from the log-probability of ``unk``.
        suppressed: words that no hypothesis has, or None. *Shape:* ``(k)``.
        ngram_blocker: fairseq's module that forbids repeated n-grams, or None.
        blocks_ngrams_as_stock: call that module, with its CUDA extension if that works; else it forbids none.
        normalize_scores: divide scores by ``length ** len_penalty``.
        language_model, language_model_weight: a model whose log-probabilities are added with this weight, or None.
        force_prefix: fairseq's own code that forces the words of prefixes in a step.
        alone: every sentence is decoded as if it were a batch of its own.
        seed: of the random numbers of sentences that are decoded so.
        transformers: rules of transformers' ``generate()`` that replace fairseq's, or None.
    """

    strategy: Any
    beam_size: int
    vocab_size: int
    pad: int
    unk: int
    eos: int
    min_len: int
    max_len_a: float
    max_len_b: int
    max_positions: int
    min_new_tokens: Optional[int]
    max_new_tokens: Optional[int]
    match_source_len: bool
    temperature: float
    unk_penalty: float
    suppressed: Optional[Tensor]
    ngram_blocker: Optional[Any]
    blocks_ngrams_as_stock: bool
    normalize_scores: bool
    len_penalty: float
    language_model: Optional[Any]
    language_model_weight: float
    force_prefix: Callable[..., Tuple[Tensor, Tensor, Tensor]]
    alone: bool
    seed: int
    transformers: Optional[TransformersRules]

    @classmethod
    def of(cls, generator: Any) -> SearchRules:
        """The rules of an :class:`~fairseq_el.generation.ELSequenceGenerator`."""
        return cls(
            strategy=generator.search,
            beam_size=generator.beam_size,
            vocab_size=generator.vocab_size,
            pad=generator.pad,
            unk=generator.unk,
            eos=generator.eos,
            min_len=generator.min_len,
            max_len_a=generator.max_len_a,
            max_len_b=generator.max_len_b,
            max_positions=generator.max_len,
            min_new_tokens=generator.min_new_tokens,
            max_new_tokens=generator.max_new_tokens,
            match_source_len=generator.match_source_len,
            temperature=generator.temperature,
            unk_penalty=generator.unk_penalty,
            suppressed=generator.token_indices_to_suppress,
            ngram_blocker=generator.repeat_ngram_blocker,
            blocks_ngrams_as_stock=generator.ngram_blocking_as_stock,
            normalize_scores=generator.normalize_scores,
            len_penalty=generator.len_penalty,
            language_model=generator.lm_model,
            language_model_weight=generator.lm_weight,
            force_prefix=generator._prefix_tokens,
            alone=generator.alone,
            seed=generator.seed,
            transformers=generator.transformers_rules if type(generator.search) is BeamSearch else None,
        )

    @property
    def is_beam_search(self) -> bool:
        """Returns whether the strategy is plain beam search, which neither draws random numbers nor keeps a state."""
        return type(self.strategy) is BeamSearch

    @property
    def draws_for_each(self) -> bool:
        """Returns whether the strategy draws random numbers, and draws them for every sentence by itself."""
        return self.alone and type(self.strategy) is Sampling

    def max_len_for(self, src_len: int) -> int:
        """Words that hypotheses of a source, or prompt, of ``src_len`` tokens may have, without eos."""
        if self.match_source_len:
            return src_len
        if self.max_new_tokens is not None:
            return min(src_len + self.max_new_tokens, self.max_positions) - 1
        return min(int(self.max_len_a * src_len + self.max_len_b), self.max_positions - 1)

    def penalize(self, scores: Tensor) -> Tensor:
        """Forbids padding, and subtracts ``--unkpen`` from the score of the unknown word.

        ``scores``: ``(rows, V)``, changed in place.
        """
        scores[:, self.pad] = float("-inf")
        scores[:, self.unk] -= self.unk_penalty
        return scores

    def block_ngrams(self, scores: Tensor, tokens: Tensor, step: int) -> None:
        """Forbids words that would repeat an n-gram (``--no-repeat-ngram-size``).

        Args:
            scores: of the next word, changed in place. *Shape:* ``(rows, V)``.
            tokens: words so far, padded. *Shape:* ``(rows, max_len + 2)``.
        """
        blocker = self.ngram_blocker
        if blocker is None:
            return
        if type(blocker) is NGramRepeatBlock and not self.blocks_ngrams_as_stock:
            block_repeated_ngrams(scores, tokens[:, : step + 1], blocker.no_repeat_ngram_size)
            return
        if type(blocker) is NGramRepeatBlock:
            blocker.use_extension = tokens.is_cuda and has_ngram_extension()
        blocker(tokens, scores, tokens.size(0) // self.beam_size, self.beam_size, step)

    def language_model_log_probs(self, tokens: Tensor) -> Tensor:
        """Log-probabilities ``(rows, V)`` of the word after ``tokens`` ``(rows, t)``, times the weight."""
        model = self.language_model
        assert model is not None
        log_probs: Tensor = model.get_normalized_probs(model(tokens), log_probs=True, sample=None)
        return log_probs[:, -1, :] * self.language_model_weight

    def normalized(self, scores: Tensor, length: int) -> Tensor:
        """Scores by which hypotheses of ``length`` words, eos included, are compared."""
        return scores / length**self.len_penalty if self.normalize_scores else scores


def without_nan(log_probs: Tensor) -> Tensor:
    """NaN counts as minus infinity; changed in place."""
    return log_probs.masked_fill_(log_probs.isnan(), float("-inf"))


class LengthLimits:
    """The steps from which on hypotheses may end, and in which they must, for each of ``B`` sentences.

    A step appends one word; the first step is 0.

    Attributes:
        prompts: the number of forced words of each sentence, and so the step that appends its first own word.
        may_end: the first step in which each sentence may end.
        last: the step that appends the last word of each sentence.
    """

    def __init__(self, prompts: List[int], may_end: List[int], last: List[int], device: torch.device):
        self.prompts, self.may_end, self.last = prompts, may_end, last
        self._on_device = torch.tensor([prompts, may_end, last], device=device)  # (3, B)

    def prompt_lengths(self) -> Tensor:
        """*Shape:* ``(B, 1)``."""
        return self._on_device[0].unsqueeze(1)

    def last_steps(self) -> Tensor:
        """*Shape:* ``(B, 1)``."""
        return self._on_device[2].unsqueeze(1)

    def too_early(self, step: int, part: slice, beam_size: int) -> Optional[Tensor]:
        """Rows that have left their prompt and may not end yet; None if no row. *Shape:* ``(rows, 1)``."""
        if step >= max(self.may_end[part]):
            return None
        prompts, may_end, _ = self._on_device[:, part]
        return for_beams((prompts <= step) & (may_end > step), beam_size)

    def ending(self, step: int, part: slice, beam_size: int) -> Optional[Tensor]:
        """Rows that get their last word; None if no row. *Shape:* ``(rows, 1)``."""
        if step < min(self.last[part]):
            return None
        return for_beams(self._on_device[2, part] <= step, beam_size)

    def after_prompts(self, step: int, part: slice, beam_size: int) -> Optional[Tensor]:
        """Rows whose next word is not a prompt's; None if that is no row. *Shape:* ``(rows, 1)``."""
        if step < min(map(min, self.prompts[part], self.last[part])):
            return None
        prompts, _, last = self._on_device[:, part]
        return for_beams((prompts <= step) | (last <= step), beam_size)

    def first_own(self, step: int, part: slice, beam_size: int) -> Optional[Tensor]:
        """Rows that get the first word after their prompt; None if no row. *Shape:* ``(rows, 1)``."""
        if step not in self.prompts[part]:
            return None
        return for_beams(self._on_device[0, part] == step, beam_size)

    def keep(self, kept: Kept) -> None:
        """Drops all other sentences."""
        self.prompts, self.may_end, self.last = (
            [values[i] for i in kept.places] for values in (self.prompts, self.may_end, self.last)
        )
        self._on_device = self._on_device.index_select(1, kept.on_device)


def for_beams(of_sentences: Tensor, beam_size: int) -> Tensor:
    """Repeats a value of each sentence for its beams, ``(B)`` to ``(B * b, 1)``."""
    return of_sentences.repeat_interleave(beam_size).unsqueeze(1)


def length_limits(
    rules: SearchRules, prefix_tokens: Optional[Tensor], longest: List[int], device: torch.device
) -> Optional[LengthLimits]:
    """The limits of each sentence; None where they are the same for all and transformers' rules need none.

    Args:
        prefix_tokens: forced words, padded. *Shape:* ``(B, p)``.
        longest: words of the longest output of each sentence, without eos.

    Raises:
        OptionError: limits after prompts were given and no prompts, or a prompt leaves no room.
    """
    at_least, at_most = rules.min_new_tokens, rules.max_new_tokens
    if at_least is None and at_most is None:
        if rules.transformers is None and not rules.alone:
            return None
        prompts = [0] * len(longest)
        if prefix_tokens is not None and rules.transformers is None:
            prompts = prompt_widths(rules.pad, prefix_tokens)
        elif prefix_tokens is not None and rules.transformers is not None and rules.transformers.continues_prompts:
            prompts = prompt_lengths(rules.pad, prefix_tokens)
        if rules.transformers is not None:
            _check_room(prompts, longest)
        return LengthLimits(prompts, [rules.min_len] * len(longest), longest, device)
    prompts = prompt_lengths(rules.pad, prefix_tokens)
    may_end = [max(rules.min_len, length + (at_least or 0)) for length in prompts]
    last = [most if at_most is None else min(length + at_most - 1, most) for length, most in zip(prompts, longest)]
    return LengthLimits(prompts, may_end, last, device)


def _check_room(prompts: List[int], longest: List[int]) -> None:
    for length, most in zip(prompts, longest):
        if length > most:
            raise OptionError(
                f"a prompt must leave room for one more token; one has {length + 1} tokens, and prompt and "
                f"continuation together may have {most + 2} (--max-len-b, and the model's positions). Shorten "
                "the prompt, or give a larger --max-len-b or --el-max-new-tokens"
            )


def prompt_widths(pad: int, prefix_tokens: Tensor) -> List[int]:
    """Columns of each sentence's prefix up to its last word."""
    if prefix_tokens.size(1) == 0:
        return [0] * prefix_tokens.size(0)
    columns = torch.arange(1, prefix_tokens.size(1) + 1, device=prefix_tokens.device)
    widths: List[int] = (prefix_tokens.ne(pad) * columns).max(dim=1)[0].tolist()
    return widths


def longest_output(rules: SearchRules, src_len: int, src_lengths: Tensor, prefix_tokens: Optional[Tensor]) -> int:
    """Words that hypotheses of a batch may have, without eos.

    Args:
        src_len: ``n``, positions of the source of the batch.
        src_lengths: *Shape:* ``(B)``.
        prefix_tokens: forced words, padded. *Shape:* ``(B, p)``.

    Raises:
        LengthLimitsError: that is less than ``min_len``.
    """
    if rules.match_source_len:
        max_len = int(src_lengths.max())
        limits = "the longest source of the batch, which --match-source-len goes by"
    elif rules.max_new_tokens is not None:
        longest = max(prompt_lengths(rules.pad, prefix_tokens)) + rules.max_new_tokens
        max_len = min(longest, rules.max_positions) - 1
        limits = (
            f"--el-max-new-tokens {rules.max_new_tokens} after the longest prompt of the batch, less the eos, "
            f"and at most {rules.max_positions - 1}, which the decoder can write"
        )
    else:
        max_len = min(int(rules.max_len_a * src_len + rules.max_len_b), rules.max_positions - 1)
        limits = (
            f"--max-len-a {rules.max_len_a:g} times the {src_len} tokens of the longest source of the batch plus "
            f"--max-len-b {rules.max_len_b}, and at most {rules.max_positions - 1}, which the decoder can write"
        )
    if rules.min_len > max_len:
        raise LengthLimitsError(
            f"--min-len must not be larger than the longest output; it is {rules.min_len}, and the longest output "
            f"has {max_len} words: {limits}. Lower --min-len, or raise the limit."
        )
    return max_len


def prompt_lengths(pad: int, prefix_tokens: Optional[Tensor]) -> List[int]:
    """Forced words of each sentence.

    Raises:
        OptionError: there are no prompts.
    """
    if prefix_tokens is None:
        raise OptionError(
            "min_new_tokens and max_new_tokens need prompts; the generator was called without prefix_tokens"
        )
    lengths: List[int] = prefix_tokens.ne(pad).sum(dim=1).tolist()
    return lengths
