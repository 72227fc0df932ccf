"""The reason why a sentence has no hypothesis that ends: its scores are not numbers, or rules leave it no word.

Nothing is watched while all goes well. A batch that has failed is decoded once more, under observation.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq.search import LexicallyConstrainedBeamSearch, PrefixConstrainedBeamSearch, Sampling
from torch import Tensor, nn

from fairseq_el.decoding import SharedEncoderOut
from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.ensemble import EnsembleDecoder
from fairseq_el.generation.hypotheses import Candidates, NoWordLeftError
from fairseq_el.generation.loop import SearchLoop
from fairseq_el.generation.reference_step import ReferenceStep
from fairseq_el.generation.rules import SearchRules

_NAMED = 5  # sentences, of many
_SAID_BY_SAMPLING = ("invalid multinomial distribution", "probability tensor contains either")


class _Dead(NamedTuple):
    """No hypothesis of a sentence had a word to go on with, or to end with.

    Attributes:
        words: how many words it had before that.
        is_nan: whether scores were not numbers.
        rules: the rules in force.
    """

    words: int
    is_nan: bool
    rules: List[str]


class WatchedStep(ReferenceStep):
    """The step of a batch that fails, with a note for each sentence that does. It waits for the device several times.

    Attributes:
        dead: by sentence of the batch.
        nan_in_source: of each sentence, whether an encoder's output is not a number.
    """

    def __init__(self, rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder):
        super().__init__(rules, batch, decoders)
        self.dead: Dict[int, _Dead] = {}
        self.nan_in_source = [False] * self.beams.num_sentences
        self._is_nan: Optional[Tensor] = None  # rows whose scores are no numbers, before rules: (rows), on the CPU

    def begin(self) -> int:
        first_step = super().begin()
        for model in self.decoders.models:
            for i in _nan_in(model.encoder_out, self.rules.beam_size):
                self.nan_in_source[i] = True
        return first_step

    def _is_plain(self, step: int, outputs: Optional[List[Tensor]]) -> bool:
        return False

    def _search_part(self, step: int, outputs: Optional[List[Tensor]], part: slice) -> Candidates:
        self._is_nan = None
        return super()._search_part(step, outputs, part)

    def _log_probs(self, outputs: List[Tensor], tokens: Tensor, is_plain: bool) -> Tensor:
        log_probs = super()._log_probs(outputs, tokens, is_plain)
        raw = self.decoders.log_probs(outputs, self.rules.temperature)
        if self.rules.language_model is not None:
            raw = raw + self.rules.language_model_log_probs(tokens)
        self._is_nan = raw.isnan().all(dim=1).cpu()
        return log_probs

    def _under_rules(self, step: int, log_probs: Tensor, part: slice) -> Tensor:
        by_sentence, rows = (-1, self.rules.beam_size), self.beams.rows(part)  # (rows) -> (B', b)
        had_words = _any_finite(log_probs).view(by_sentence)
        log_probs = super()._under_rules(step, log_probs, part)
        stuck = ~_any_finite(log_probs).view(by_sentence)
        is_nan = torch.zeros_like(stuck) if self._is_nan is None else self._is_nan.view(by_sentence)
        alive = self.beams.scores[rows, max(step - 1, 0)].gt(float("-inf")).view(by_sentence) & ~self.beams.ignore[part]
        alive = alive.cpu() | ~alive.any(dim=1, keepdim=True).cpu()  # all of a sentence that was dead before its search
        failing = stuck & alive
        draws = isinstance(self.rules.strategy, Sampling)  # a word for every beam
        for i in (failing.any(dim=1) if draws else failing.eq(alive).all(dim=1)).nonzero().view(-1).tolist():
            rules = self._rules_for(step, part.start + i) if bool((had_words[i] & failing[i]).any()) else []
            self._note(part.start + i, step, bool((is_nan[i] & failing[i]).any()), rules)
        return log_probs

    def _search(self, step: int, outputs: Optional[List[Tensor]]) -> Candidates:
        candidates = super()._search(step, outputs)
        for i, found in enumerate(_any_finite(candidates.scores).tolist()):
            if not found:
                self._note(i, step, False, [*self._rules_for(step, i), _rule_of(self.rules.strategy)])
        return candidates

    def _note(self, i: int, step: int, is_nan: bool, rules: List[str]) -> None:
        sentence = self.batch.sentences[i]
        if sentence not in self.batch.finished:
            self.dead.setdefault(sentence, _Dead(step, is_nan, rules))

    def _rules_for(self, step: int, i: int) -> List[str]:
        """The rules in force for a sentence, by its place among those still decoded."""
        given = self.rules.transformers
        if given is None:
            return self._ending(step, i) + self._beginning(step, i) + self._suppressed() + self._repetition()
        rules = self._beginning(step, i)
        if given.forbidden:
            rules.append(f"--el-forbidden forbids {len(given.forbidden)} words or sequences of words")
        assert self.batch.limits is not None
        if given.forbidden_first and step == self.batch.limits.prompts[i] + int(given.forced_first is not None):
            rules.append(f"--el-forbidden-first forbids {len(given.forbidden_first)} words here")
        return rules + self._repetition()

    def _ending(self, step: int, i: int) -> List[str]:
        """The rule that ends hypotheses which are as long as they may be."""
        last, at_most = self.batch.last_step(i), self.rules.max_new_tokens
        if step < last:
            return []
        limit = "--max-len-a, --max-len-b" if at_most is None else f"--el-max-new-tokens {at_most}"
        return [f"after {last} words only the end may follow ({limit})"]

    def _beginning(self, step: int, i: int) -> List[str]:
        """The rule that forces a prefix, or forbids an end that is too early."""
        batch, limits, at_least = self.batch, self.batch.limits, self.rules.min_new_tokens
        prefix = batch.prefix_tokens if batch.in_prefix(step) else None
        if prefix is not None and int(prefix[i, step]) != self.rules.pad:
            return ["its prefix forces this word"]
        if limits is not None and at_least is not None and step < limits.prompts[i] + at_least:
            return [f"--el-min-new-tokens {at_least} forbids the end before"]
        if (prefix is None or limits is not None) and step < self.rules.min_len:
            return [f"--min-len {self.rules.min_len} forbids the end before"]
        return []

    def _suppressed(self) -> List[str]:
        words = self.rules.suppressed
        return [] if words is None else [f"tokens_to_suppress forbids {len(words)} words"]

    def _repetition(self) -> List[str]:
        blocker = self.rules.ngram_blocker
        if blocker is None:
            return []
        return [f"--no-repeat-ngram-size {blocker.no_repeat_ngram_size} forbids what would repeat"]


def found_no_word(error: Exception) -> bool:
    """Returns whether decoding failed because no word was left; fairseq's sampling asks torch for one all the same."""
    return isinstance(error, NoWordLeftError) or any(said in str(error) for said in _SAID_BY_SAMPLING)


def explain(
    rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder, error: Exception, numbers: Optional[Tensor]
) -> str:
    """Says which sentences have no hypothesis, what is wrong, and what to try.

    Args:
        rules, batch, decoders: of a new search of the batch that has failed.
        error: the failure.
        numbers: of the sentences in the data set. *Shape:* ``(B)``.
    """
    step = WatchedStep(rules, batch, decoders)
    try:
        SearchLoop(rules, batch, step).run()
    except (AssertionError, RuntimeError) as again:
        if not found_no_word(again):
            raise
    failed = getattr(error, "sentences", []) or sorted(step.dead)
    dead = step.dead.get(failed[0]) if failed else None
    subject = _subject([i if numbers is None else int(numbers[i]) for i in failed])
    if dead is None:
        return f"{subject} no hypothesis that ended within {batch.max_len} words. Raise --max-len-a or --max-len-b."
    if dead.is_nan:
        source = "the encoder's output and " if step.nan_in_source[failed[0]] else ""
        cause = f"{source}the scores of word {dead.words + 1} are not numbers (NaN). {_origin(step)}"
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


def _origin(step: WatchedStep) -> str:
    """Says where NaN comes from, and what to try."""
    beside = step.rules.language_model
    models = [*(decoder.model for decoder in step.decoders.models), *([] if beside is None else [beside])]
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
    sentences: List[int] = is_nan.any(dim=1)[::beams].nonzero().view(-1).tolist()
    return sentences
