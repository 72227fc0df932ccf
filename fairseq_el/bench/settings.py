"""The options of ``fairseq-el bench``, and which sentences are decoded in a call."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, Optional, Tuple

from fairseq_el.bench.methods import Method

NATURAL_LENGTH = 200  # words at most, where outputs end by themselves: --max-len-b


@dataclass(frozen=True)
class BatchSpec:
    """The sentences that are decoded in a call.

    Attributes:
        batch: sentences in a batch.
        src_len: sources are cut to so many tokens, eos included.
        whole_set: all of the data set, in batches of ``batch``, instead of its first ``batch`` sentences.
    """

    batch: int
    src_len: int
    whole_set: bool = False

    def __str__(self) -> str:
        return f"batch {self.batch}, src-len {self.src_len}"


@dataclass(frozen=True)
class Settings:
    """The options of ``fairseq-el bench``. Workers get all of them.

    Attributes:
        user_dir: of the user's own, which registers the architecture of the checkpoint.
        src_lens: empty for sources as long as the model reads them; prompts of a language model have this length.
        tgt_len: words of every output, or 0 for outputs that end by themselves.
        device: ``"cpu"`` or ``"cuda"``.
        per_step: whether outputs of a quarter of ``tgt_len`` are timed too: the difference is the time of steps only.
        diverse_beam_groups: 0 for plain beam search.
        check_others: whether hf in an exact dtype must write what stock writes.
        natural_length: words at most, of outputs that end by themselves.
        memory_budget: --el-memory-budget of auto, such as ``"4GiB"``; empty for its default.
        converted: directory of the checkpoint for CTranslate2.
        command: as the user typed it, for the report.
    """

    methods: Tuple[Method, ...]
    baseline: Method
    data: str
    path: str
    subset: str = "test"
    source_lang: Optional[str] = None
    target_lang: Optional[str] = None
    user_dir: Optional[str] = None
    batches: Tuple[int, ...] = (16,)
    src_lens: Tuple[int, ...] = ()
    whole_set: bool = False
    beam: int = 4
    tgt_len: int = 0
    per_step: bool = False
    no_repeat_ngram_size: int = 0
    diverse_beam_groups: int = 0
    lenpen: float = 1.0
    runs: int = 5
    warmup: int = 1
    threads: int = 1
    self_attention: Optional[str] = None
    device: str = "cpu"
    check_others: bool = True
    natural_length: int = NATURAL_LENGTH
    memory_budget: str = ""
    converted: str = ""
    command: str = ""

    @property
    def tgt_lens(self) -> Tuple[int, ...]:
        """Lengths that are timed; the last is the one the table shows."""
        return (self.tgt_len // 4, self.tgt_len) if self.per_step else (self.tgt_len,)

    def as_dict(self) -> Dict[str, Any]:
        """Everything, as JSON has it; a worker makes the settings from it again with :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> Settings:
        """The settings that :meth:`as_dict` turned into these values."""
        numbers = {name: tuple(values[name]) for name in ("batches", "src_lens")}
        methods = tuple(Method(**method) for method in values["methods"])
        return cls(**{**values, **numbers, "methods": methods, "baseline": Method(**values["baseline"])})
