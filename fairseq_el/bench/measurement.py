"""One method on one kind of batch: its outputs and its times."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Dict, List, Optional, Sequence

from fairseq_el.bench.methods import Method
from fairseq_el.bench.output_checks import ScoreError
from fairseq_el.bench.programs import ScoredOutput
from fairseq_el.bench.settings import BatchSpec
from fairseq_el.bench.worker_client import WorkerProcess
from fairseq_el.errors import FairseqElError
from fairseq_el.scoring import Agreement


class Measurement:
    """One method on the batches of one :class:`BatchSpec`, in a worker.

    Attributes:
        outputs: best hypotheses in the order of the data set, by length that was asked for.
        seconds: of each timed round, by length.
        batch: sentences, their tokens, and tokens of the longest.
        peak_bytes: resident memory at most while decoding; ``loaded_bytes``: before the first batch.
        agreement: with stock in the same dtype.
        stock_score_error: of stock in the same dtype, where that is a limit.
    """

    def __init__(self, method: Method, spec: BatchSpec, worker: WorkerProcess):
        self.method, self.spec, self.worker = method, spec, worker
        self.outputs: Dict[int, List[ScoredOutput]] = {}
        self.seconds: Dict[int, List[float]] = {}
        self.batch: Dict[str, int] = {}
        self.loaded_bytes = worker.loaded_bytes
        self.peak_bytes = 0
        self.agreement: Optional[Agreement[List[int]]] = None
        self.score_error: Optional[ScoreError] = None
        self.stock_score_error: Optional[ScoreError] = None
        self._digests: Dict[int, str] = {}

    def prepare(self) -> None:
        self.batch = self.worker.ask("prepare", spec=asdict(self.spec))

    def warm_up(self, tgt_lens: Sequence[int], times: int) -> None:
        """Decodes without timing, and keeps the outputs."""
        for tgt_len in tgt_lens:
            for turn in range(times):
                reply = self._decode(tgt_len, want_outputs=turn == 0)
                if turn == 0:
                    self.outputs[tgt_len] = [ScoredOutput(**output) for output in reply["outputs"]]

    def time(self, tgt_len: int) -> None:
        self.seconds.setdefault(tgt_len, []).append(self._decode(tgt_len, want_outputs=False)["seconds"])

    def finish(self) -> None:
        self.peak_bytes = self.worker.ask("peak")["peak_bytes"]

    def _decode(self, tgt_len: int, want_outputs: bool) -> Dict[str, Any]:
        """
        Raises:
            FairseqElError: outputs are not those of the call before: the checked outputs are not the timed ones.
        """
        reply = self.worker.ask("decode", tgt_len=tgt_len, want_outputs=want_outputs)
        if self._digests.setdefault(tgt_len, reply["digest"]) != reply["digest"]:
            raise FairseqElError(
                f"{self.method.label}, {self.spec}: two calls with the same batch wrote different outputs"
            )
        return reply
