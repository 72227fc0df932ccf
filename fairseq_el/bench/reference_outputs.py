"""Workers that live for a short time: facts about the model, outputs and scores of stock fairseq to check against."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from fairseq_el.bench.methods import Method
from fairseq_el.bench.programs import ScoredOutput
from fairseq_el.bench.settings import BatchSpec, Settings
from fairseq_el.bench.worker_client import WorkerProcess
from fairseq_el.errors import FairseqElError

_JUDGE = Method("stock", "fp32")
Outputs = Dict[int, List[ScoredOutput]]  # by length


def facts_and_conversion(settings: Settings, methods: Sequence[Method], scratch: Path) -> Dict[str, Any]:
    """What the checkpoint and the data set are; also writes the checkpoint for CTranslate2, if a method needs it.

    Where the user asked for all methods, ``conversion_error`` says why it could not be written.
    """
    with WorkerProcess(settings.spec(_JUDGE, scratch / "ct2"), "stock model", scratch) as worker:
        facts = worker.load().ask("describe")
        if any(method.kind == "ct2" for method in methods):
            try:
                worker.ask("convert", directory=str(scratch / "ct2"))
            except FairseqElError as error:
                if not all(method.may_be_missing for method in methods if method.kind == "ct2"):
                    raise
                facts["conversion_error"] = str(error)
    return facts


class References:
    """What stock fairseq writes, in every dtype that a method is held against.

    Stock methods among those that are measured serve for it; for the other dtypes, stock decodes once, before anything
    is measured, and is not in the table.
    """

    def __init__(
        self,
        settings: Settings,
        methods: Sequence[Method],
        works: Sequence[BatchSpec],
        scratch: Path,
        facts: Dict[str, Any],
    ):
        self._settings, self._scratch = settings, scratch
        self.vocab_size: int = facts["shape"]["vocab_size"]
        self.eos: int = facts["eos"]
        self._outputs: Dict[Tuple[str, BatchSpec], Outputs] = {}
        measured = {method.dtype for method in methods if method.kind == "stock"}
        for dtype in sorted({method.stock_dtype for method in methods} - measured):
            self._decode(Method("stock", dtype), works)

    def _decode(self, method: Method, works: Sequence[BatchSpec]) -> None:
        with WorkerProcess(self._spec(method), f"{method.label}, to check against", self._scratch) as worker:
            worker.load()
            for work in works:
                worker.ask("prepare", work=asdict(work))
                self._outputs[method.dtype, work] = {}
                for tgt_len in self._settings.tgt_lens:
                    reply = worker.ask("decode", tgt_len=tgt_len, want_outputs=True)
                    self._outputs[method.dtype, work][tgt_len] = [ScoredOutput(**found) for found in reply["outputs"]]

    def add(self, measured: Sequence[Tuple[Method, BatchSpec, Outputs]]) -> None:
        """Takes over what stock methods wrote."""
        for method, work, outputs in measured:
            if method.kind == "stock":
                self._outputs[method.dtype, work] = outputs

    def outputs(self, dtype: str, work: BatchSpec, tgt_len: int) -> List[ScoredOutput]:
        return self._outputs[dtype, work][tgt_len]

    def scores(self, wanted: Sequence[Tuple[BatchSpec, Sequence[ScoredOutput]]]) -> List[List[List[float]]]:
        """What stock in float32 gives each word of these outputs."""
        with WorkerProcess(self._spec(_JUDGE), "stock model that scores", self._scratch) as worker:
            worker.load()
            return [
                worker.ask("score", work=asdict(work), outputs=[output.tokens for output in outputs])["scores"]
                for work, outputs in wanted
            ]

    def _spec(self, method: Method) -> Any:
        return self._settings.spec(method, self._scratch / "ct2")
