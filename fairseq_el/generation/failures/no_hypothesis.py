"""Why a sentence has no hypothesis that could end: its scores are not numbers, or rules leave it no word.

Nothing is watched while all goes well. A batch that has failed is decoded once more, under observation.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq.search import LexicallyConstrainedBeamSearch, PrefixConstrainedBeamSearch, Sampling
from torch import Tensor, nn

from fairseq_el.decoding import SharedEncoderOut
from fairseq_el.generation.beams import Candidates
from fairseq_el.generation.loop import BatchDecoding, NoWordLeftError
from fairseq_el.generation.transformers_search import TransformersDecoding

_NAMED = 5  # sentences, of many
_SAID_BY_SAMPLING = ("invalid multinomial distribution", "probability tensor contains either")


class _Dead(NamedTuple):
    """No hypothesis of a sentence had a word to go on with, or to end with.

    Attributes:
        words: before that.
        is_nan: whether scores were not numbers.
        rules: that were in force.
    """

    words: int
    is_nan: bool
    rules: List[str]


class _Watched(BatchDecoding):
    """A batch that fails, with a note for each sentence that does. It waits for the device several times in a step.

    Attributes:
        dead: by sentence of the batch.
        nan_in_source: of each sentence, whether an encoder's output is not a number.
    """

    def __init__(self, *batch: Any):
        self.dead: Dict[int, _Dead] = {}
        super().__init__(*batch)
        self.nan_in_source = [False] * self.beams.num_sentences
        for model in self.decoders.models:
            for i in _nan_in(model.encoder_out, self.generator.beam_size):
                self.nan_in_source[i] = True

    def _is_plain(self, step: int, outputs: Optional[List[Tensor]]) -> bool:
        return False

    def _log_probs(self, step: int, outputs: Optional[List[Tensor]], rows: slice) -> Tensor:
        log_probs = super()._log_probs(step, outputs, rows)
        self.is_nan = torch.zeros(log_probs.size(0), dtype=torch.bool)
        if outputs is not None:
            raw = self.decoders.log_probs(outputs, self.generator.temperature)
            if self.generator.lm_model is not None:
                raw = raw + self.generator.language_model_log_probs(self.beams.tokens[rows, : step + 1])
            self.is_nan = raw.isnan().all(dim=1).cpu()
        return log_probs

    def _under_rules(self, step: int, scores: Tensor, part: slice, rows: slice) -> Tensor:
        by_sentence = (-1, self.generator.beam_size)
        had_words = _any_finite(scores).view(by_sentence)
        scores = super()._under_rules(step, scores, part, rows)
        stuck, is_nan = ~_any_finite(scores).view(by_sentence), self.is_nan.view(by_sentence)
        alive = self.beams.scores[rows, max(step - 1, 0)].gt(float("-inf")).view(by_sentence) & ~self.beams.ignore[part]
        alive = alive.cpu() | ~alive.any(dim=1, keepdim=True).cpu()  # all of a sentence that was dead before its search
        failing = stuck & alive
        draws = isinstance(self.generator.search, Sampling)  # a word for every beam
        for i in (failing.any(dim=1) if draws else failing.eq(alive).all(dim=1)).nonzero().view(-1).tolist():
            rules = self._rules(step, part.start + i) if bool((had_words[i] & failing[i]).any()) else []
            self._note(part.start + i, step, bool((is_nan[i] & failing[i]).any()), rules)
        return scores

    def _search(self, step: int, outputs: Optional[List[Tensor]]) -> Candidates:
        candidates = super()._search(step, outputs)
        for i, found in enumerate(_any_finite(candidates.scores).tolist()):
            if not found:
                self._note(i, step, False, [*self._rules(step, i), _rule_of(self.generator.search)])
        return candidates

    def _note(self, i: int, step: int, is_nan: bool, rules: List[str]) -> None:
        if self.sentences[i] not in self.finished:
            self.dead.setdefault(self.sentences[i], _Dead(step, is_nan, rules))

    def _rules(self, step: int, i: int) -> List[str]:
        """Those of :meth:`_under_rules` that are in force for a sentence, by its number among those still decoded."""
        generator, rules, last = self.generator, [], self._last_step(i)
        if step >= last:
            limit = "--max-len-a, --max-len-b"
            if generator.max_new_tokens is not None:
                limit = f"--el-max-new-tokens {generator.max_new_tokens}"
            rules.append(f"after {last} words only the end may follow ({limit})")
        rules += self._beginning(step, i)
        if generator.token_indices_to_suppress is not None:
            rules.append(f"tokens_to_suppress forbids {len(generator.token_indices_to_suppress)} words")
        return rules + self._repetition()

    def _beginning(self, step: int, i: int) -> List[str]:
        """What a prefix forces, or else when the end is too early."""
        generator, limits = self.generator, self.limits
        prefix = self.prefix_tokens if self._in_prefix(step) else None
        if prefix is not None and int(prefix[i, step]) != generator.pad:
            return ["its prefix forces this word"]
        at_least = generator.min_new_tokens
        if limits is not None and at_least is not None and step < limits.prompts[i] + at_least:
            return [f"--el-min-new-tokens {at_least} forbids the end before"]
        if (prefix is None or limits is not None) and step < generator.min_len:
            return [f"--min-len {generator.min_len} forbids the end before"]
        return []

    def _repetition(self) -> List[str]:
        blocker = self.generator.repeat_ngram_blocker
        if blocker is None:
            return []
        return [f"--no-repeat-ngram-size {blocker.no_repeat_ngram_size} forbids what would repeat"]


class _WatchedAsTransformers(_Watched, TransformersDecoding):
    """The same of a search as transformers has it."""

    def _rules(self, step: int, i: int) -> List[str]:
        rules, given = self._beginning(step, i), self.rules
        if given.forbidden:
            rules.append(f"--el-forbidden forbids {len(given.forbidden)} words or sequences of words")
        if given.forbidden_first and step == self.limits.prompts[i] + int(given.forced_first is not None):
            rules.append(f"--el-forbidden-first forbids {len(given.forbidden_first)} words here")
        return rules + self._repetition()


def found_no_word(error: Exception) -> bool:
    """Whether decoding failed because there was no word to go on with: fairseq's sampling asks torch for one."""
    return isinstance(error, NoWordLeftError) or any(said in str(error) for said in _SAID_BY_SAMPLING)


def why(generator: Any, batch: Tuple[Any, ...], error: Exception, numbers: Optional[Tensor]) -> str:
    """Says which sentences have no hypothesis, what is wrong, and what to try.

    Args:
        batch: what :class:`BatchDecoding` took.
        error: what it raised.
        numbers: of the sentences in the data set. *Shape:* ``(B)``.
    """
    watched = (_WatchedAsTransformers if generator.searches_as_transformers else _Watched)(generator, *batch)
    try:
        watched.run()
    except (AssertionError, RuntimeError) as again:
        if not found_no_word(again):
            raise
    failed = getattr(error, "sentences", []) or sorted(watched.dead)
    dead = watched.dead.get(failed[0]) if failed else None
    subject = _subject([i if numbers is None else int(numbers[i]) for i in failed])
    if dead is None:
        return f"{subject} no hypothesis that ended within {watched.max_len} words. Raise --max-len-a or --max-len-b."
    if dead.is_nan:
        source = "the encoder's output and " if watched.nan_in_source[failed[0]] else ""
        cause = f"{source}the scores of word {dead.words + 1} are not numbers (NaN). {_origin(generator)}"
        return f"{subject} no hypothesis: {cause}"
    if not dead.rules:
        return (
            f"{subject} no hypothesis: after {dead.words} words the model gives every word a probability of 0. Check "
            "--temperature, --unkpen and the checkpoint."
        )
    return f"{subject} no hypothesis: no word is left after {dead.words}: {'; '.join(dead.rules)}. Loosen one of these."


def _subject(numbers: List[int]) -> str:
    if not numbers:
        return "A sentence has"
    listed = ", ".join(map(str, numbers[:_NAMED]))
    if len(numbers) > _NAMED:
        listed += f" and {len(numbers) - _NAMED} more"
    return f"Sentence {listed} of the data has" if len(numbers) == 1 else f"Sentences {listed} of the data have"


def _origin(generator: Any) -> str:
    """Where NaN comes from, and what to try."""
    models = [*generator.model.models, *([] if generator.lm_model is None else [generator.lm_model])]
    dtype = next((p.dtype for model in models for p in model.parameters()), torch.float32)
    other = "decode without --fp16, or with --el-dtype fp32 or bf16"
    damaged = [(name, tensor) for model in models for name, tensor in _not_finite(model)]
    if damaged:
        name, tensor = damaged[0]
        others = len(damaged) - 1
        what = f"{name} holds" if others == 0 else f"{name} and {others} other tensor{'s'[: others > 1]} hold"
        of_first = f"{int((~torch.isfinite(tensor)).sum()):,} of {tensor.numel():,} numbers"
        holds = f"The model's {what} NaN or infinity ({'' if others == 0 else 'the first: '}{of_first})"
        if dtype == torch.float16:
            return f"{holds}. If they were larger than fp16 can hold, 65,504, {other}; else the checkpoint is damaged."
        return f"{holds}: the checkpoint is damaged. Copy, convert or train it again."
    if dtype == torch.float16:
        return f"All weights are finite, so numbers have likely grown beyond fp16's largest, 65,504: {other}."
    return (
        f"All weights are finite, so numbers have grown beyond {_name(dtype)} on their way through the model. Compare "
        "with --el-dtype fp64, and check that checkpoint and architecture belong together."
    )


def _not_finite(model: nn.Module) -> List[Tuple[str, Tensor]]:
    return [(name, p) for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).replace("torch.", "")


def _any_finite(scores: Tensor) -> Tensor:
    """Rows of ``scores`` ``(rows, c)`` that hold more than minus infinity, on the CPU. *Shape:* ``(rows)``."""
    return scores.gt(float("-inf")).any(dim=1).cpu()


def _rule_of(search: Any) -> str:
    if isinstance(search, LexicallyConstrainedBeamSearch):
        return "--constraints forbids the end before all are there"
    if isinstance(search, PrefixConstrainedBeamSearch):
        return "prefix_allowed_tokens_fn allows no other word"
    return f"{type(search).__name__} takes no other word"


def _nan_in(encoder_out: Any, beam_size: int) -> List[int]:
    """Sentences whose encoder output holds NaN outside of padding, if it is built as fairseq's Transformer's."""
    outputs = encoder_out.get("encoder_out") if isinstance(encoder_out, dict) else None
    if not outputs or outputs[0].dim() != 3:
        return []
    is_nan = outputs[0].isnan().any(dim=2).transpose(0, 1)  # (n, rows, d) -> (rows, n)
    for mask in encoder_out.get("encoder_padding_mask") or []:
        if mask.shape == is_nan.shape:
            is_nan = is_nan & ~mask.to(torch.bool)
    beams = 1 if isinstance(encoder_out, SharedEncoderOut) else beam_size
    return is_nan.any(dim=1)[::beams].nonzero().view(-1).tolist()
