"""``python -m fairseq_el.bench.worker``: one program, which takes its commands from lines of JSON on standard input.

Every command is answered by one line on standard output: the answer, or ``{"error": message}``. Text that libraries
print goes to standard error.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any, Dict, List, Optional, TextIO, Union

import torch

from fairseq_el.bench.methods import Method
from fairseq_el.bench.programs import (
    FairseqProgram,
    Program,
    ReferenceScores,
    ScoredOutput,
    load_program,
)
from fairseq_el.bench.settings import BatchSpec, Settings
from fairseq_el.errors import FairseqElError
from fairseq_el.failure_report import explain
from fairseq_el.generation import has_ngram_extension
from fairseq_el.measure import CardMemory, ProcessMemory, wait_for

Reply = Dict[str, Any]


class Session:
    """A loaded program and its batches. Every public method is a command; between two of them the program is idle."""

    def __init__(self) -> None:
        self._program: Optional[Program] = None
        self._batches: List[List[int]] = []  # sentences by their number in the data set
        self._scores: Optional[ReferenceScores] = None
        self._device = "cpu"
        self._memory: Union[ProcessMemory, CardMemory] = ProcessMemory()

    def load(self, settings: Dict[str, Any], method: Dict[str, Any]) -> Reply:
        parsed = Settings.from_dict(settings)
        torch.set_num_threads(parsed.threads)
        self._program = load_program(parsed, Method(**method))
        gc.collect()
        self._device = parsed.device
        self._memory = CardMemory() if parsed.device == "cuda" else ProcessMemory()
        return {"loaded_bytes": self._memory.now()}

    def describe(self) -> Reply:
        """Facts about the model and the data set, for checks before anything is timed."""
        program = self._fairseq_program
        facts = {"shape": program.shape, "sentences": len(program.sources), "eos": program.sources.eos}
        facts["has_ngram_extension"] = has_ngram_extension()
        return {**facts, **program.max_positions}

    def convert(self) -> Reply:
        from fairseq_el.bench.programs.ctranslate import convert

        convert(self._fairseq_program.settings)
        return {}

    def prepare(self, spec: Dict[str, Any]) -> Reply:
        program, parsed = self._loaded, BatchSpec(**spec)
        self._batches = program.sources.batches(parsed)
        sources = [[program.sources.cut(i, parsed.src_len) for i in batch] for batch in self._batches]
        program.prepare(sources)
        lengths = [source.numel() for batch in sources for source in batch]
        return {"sentences": len(lengths), "longest": max(lengths), "tokens": sum(lengths)}

    def decode(self, tgt_len: int, want_outputs: bool) -> Reply:
        """One timed call; ``digest`` tells whether outputs are the same as in another call."""
        program = self._loaded
        start = time.perf_counter()
        raw = program.decode(tgt_len)
        wait_for(self._device)
        seconds = time.perf_counter() - start
        hypotheses = program.hypotheses(raw, with_scores=want_outputs)
        digest = hashlib.sha256(json.dumps([h.tokens for h in hypotheses]).encode()).hexdigest()
        reply = {"seconds": seconds, "digest": digest, "words": sum(len(h.tokens) for h in hypotheses)}
        if want_outputs:
            reply["outputs"] = [asdict(h) for h in self._in_order(hypotheses)]
        return reply

    def reset_peak(self) -> Reply:
        """Begins to measure the peak of memory anew, where the system can."""
        gc.collect()
        return {"reset": self._memory.reset_peak()}

    def peak(self) -> Reply:
        return {"peak_bytes": self._memory.peak()}

    def score(self, spec: Dict[str, Any], outputs: List[List[int]]) -> Reply:
        """Scores that the model of this worker gives each word of outputs, whichever program wrote them."""
        program, parsed = self._fairseq_program, BatchSpec(**spec)
        if self._scores is None:
            self._scores = ReferenceScores(program.model, program.sources.eos)
        sentences = sorted(i for batch in program.sources.batches(parsed) for i in batch)
        sources = [program.sources.cut(i, parsed.src_len) for i in sentences]
        return {"scores": [self._scores(source, tokens) for source, tokens in zip(sources, outputs)]}

    def _in_order(self, hypotheses: List[ScoredOutput]) -> List[ScoredOutput]:
        """Sorts outputs from the order of the batches to that of the data set."""
        numbers = [i for batch in self._batches for i in batch]
        return [hypothesis for _, hypothesis in sorted(zip(numbers, hypotheses), key=lambda pair: pair[0])]

    @property
    def _loaded(self) -> Program:
        assert self._program is not None, "load comes first"
        return self._program

    @property
    def _fairseq_program(self) -> FairseqProgram:
        assert isinstance(self._loaded, FairseqProgram)
        return self._loaded


def _take_standard_output() -> TextIO:
    """Keeps standard output for answers; text that others write to it from now on goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def main() -> None:
    channel = _take_standard_output()
    session = Session()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            reply = getattr(session, command.pop("command"))(**command)
        except Exception as error:
            message = str(error) if isinstance(error, FairseqElError) else explain(error)
            if message is None:
                raise
            reply = {"error": message}
        channel.write(json.dumps(reply) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
