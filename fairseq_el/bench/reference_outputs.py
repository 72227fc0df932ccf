"""Outputs and scores of stock fairseq, with which those of all programs are compared; facts about the model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from fairseq_el.bench.methods import STOCK, Method
from fairseq_el.bench.programs import ScoredOutput
from fairseq_el.bench.settings import BatchSpec, Settings
from fairseq_el.bench.worker_client import WorkerProcess
from fairseq_el.errors import FairseqElError

Outputs = Dict[int, List[ScoredOutput]]  # by length


def facts_and_conversion(settings: Settings, methods: Sequence[Method], scratch: Path) -> Dict[str, Any]:
    """Describes the checkpoint and the data set; also writes the checkpoint for CTranslate2, if a method needs it.

    Where the user asked for all methods, ``conversion_error`` says why it could not be written.
    """
    with WorkerProcess(settings, STOCK, "stock model", scratch) as worker:
        facts = worker.load().ask("describe")
        if any(method.kind == "ct2" for method in methods):
            try:
                worker.ask("convert")
            except FairseqElError as error:
                if not all(method.may_be_missing for method in methods if method.kind == "ct2"):
                    raise
                facts["conversion_error"] = str(error)
    return facts


class References:
    """Outputs of stock fairseq, in every dtype that a method is compared in.

    Stock methods that are measured give theirs. For the other dtypes, stock decodes once, before anything is measured,
    and is not in the table.
    """

    def __init__(
        self,
        settings: Settings,
        methods: Sequence[Method],
        specs: Sequence[BatchSpec],
        scratch: Path,
        facts: Dict[str, Any],
    ):
        self._settings, self._scratch = settings, scratch
        self.vocab_size: int = facts["shape"]["vocab_size"]
        self.eos: int = facts["eos"]
        self._outputs: Dict[Tuple[str, BatchSpec], Outputs] = {}
        measured = {method.dtype for method in methods if method.kind == "stock"}
        for dtype in sorted({method.stock_dtype for method in methods} - measured):
            self._decode(Method("stock", dtype), specs)

    def _decode(self, method: Method, specs: Sequence[BatchSpec]) -> None:
        with WorkerProcess(self._settings, method, f"{method.label}, to check against", self._scratch) as worker:
            worker.load()
            for spec in specs:
                worker.ask("prepare", spec=asdict(spec))
                self._outputs[method.dtype, spec] = {}
                for tgt_len in self._settings.tgt_lens:
                    reply = worker.ask("decode", tgt_len=tgt_len, want_outputs=True)
                    self._outputs[method.dtype, spec][tgt_len] = [ScoredOutput(**found) for found in reply["outputs"]]

    def add(self, measured: Sequence[Tuple[Method, BatchSpec, Outputs]]) -> None:
        """Takes over the outputs of stock methods."""
        for method, spec, outputs in measured:
            if method.kind == "stock":
                self._outputs[method.dtype, spec] = outputs

    def outputs(self, dtype: str, spec: BatchSpec, tgt_len: int) -> List[ScoredOutput]:
        return self._outputs[dtype, spec][tgt_len]

    def scores(self, wanted: Sequence[Tuple[BatchSpec, Sequence[ScoredOutput]]]) -> List[List[List[float]]]:
        """The scores that stock in float32 gives each word of these outputs."""
        with WorkerProcess(self._settings, STOCK, "stock model that scores", self._scratch) as worker:
            worker.load()
            return [
                worker.ask("score", spec=asdict(spec), outputs=[output.tokens for output in outputs])["scores"]
                for spec, outputs in wanted
            ]
