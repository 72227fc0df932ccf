"""What is measured: everything that the command line says, and what of it a worker is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from fairseq_el.bench.methods import Method

NATURAL_LENGTH = 200  # words at most, where outputs end by themselves: --max-len-b


@dataclass(frozen=True)
class Spec:
    """What a worker needs to load its program."""

    method: Method
    data: str
    path: str
    subset: str
    source_lang: Optional[str]
    target_lang: Optional[str]
    beam: int
    no_repeat_ngram_size: int
    diverse_beam_groups: int  # 0: plain beam search
    lenpen: float
    threads: int
    self_attention: Optional[str]
    device: str
    natural_length: int  # words at most, of outputs that end by themselves
    converted: str  # directory of the checkpoint for CTranslate2

    def of_stock(self) -> Spec:
        """The same for the stock model in float32."""
        return replace(self, method=Method("stock", "fp32"))

    def as_dict(self) -> Dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_dict(cls, values: Dict[str, Any]) -> Spec:
        return cls(**{**values, "method": Method(**values["method"])})


@dataclass(frozen=True)
class BatchSpec:
    """Which sentences are decoded in a call.

    Attributes:
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
    """The options of ``fairseq-el bench``.

    Attributes:
        src_lens: empty for sources as long as the model reads them.
        tgt_len: words of every output, or 0 for outputs that end by themselves.
        device: ``"cpu"`` or ``"cuda"``.
        per_step: whether outputs of a quarter of ``tgt_len`` are timed too, so that the difference is of steps only.
        check_others: whether hf in an exact dtype must write what stock writes.
        command: as the user typed it, for the report.
    """

    methods: Tuple[Method, ...]
    baseline: Method
    data: str
    path: str
    subset: str = "test"
    source_lang: Optional[str] = None
    target_lang: Optional[str] = None
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
    command: str = ""

    @property
    def tgt_lens(self) -> Tuple[int, ...]:
        """Lengths that are timed; the last is the one the table shows."""
        return (self.tgt_len // 4, self.tgt_len) if self.per_step else (self.tgt_len,)

    def spec(self, method: Method, converted: Path) -> Spec:
        return Spec(
            method=method,
            data=self.data,
            path=self.path,
            subset=self.subset,
            source_lang=self.source_lang,
            target_lang=self.target_lang,
            beam=self.beam,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            diverse_beam_groups=self.diverse_beam_groups,
            lenpen=self.lenpen,
            threads=self.threads,
            self_attention=self.self_attention,
            device=self.device,
            natural_length=self.natural_length,
            converted=str(converted),
        )
