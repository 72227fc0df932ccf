"""A plan: the memory that each method needs, and the largest batch that fits; for programs, as a table, as a picture.

A method is a way in which decoding keeps its past: a name in ``METHODS``.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from tabulate import tabulate

from fairseq_el.files import write_whole
from fairseq_el.planning.memory import Breakdown, largest_batch, memory
from fairseq_el.planning.model_shape import ModelShape
from fairseq_el.planning.workload import METHODS, Workload
from fairseq_el.units import format_size

_ROWS = (  # of the table: a title, and the part of a breakdown that is shown
    ("weights", "weights"),
    ("weights packed for the processor", "packed"),
    ("process (--overhead)", "overhead"),
    ("sources, words, scores", "buffers"),
    ("a) reading sources or prompts", "encoding"),
    ("b) cross-attention state", "cross_state"),
    ("b) source's keys and values", "source_keys_values"),
    ("b) decoder state, expected", "decoder_state"),
    ("b) attention record", "attention_record"),
    ("b) logits, search, a step", "step"),
    ("b) CUDA graphs, joined weights", "graphs"),
)
_IN_JSON = {"keeps_packed": "packs_last"}  # fields of a workload that programs know by an earlier name
_GIB = 1 << 30
_POINTS = 120  # of a line of the picture


class Plan:
    """The memory of each method for a batch, and its largest batch.

    Args:
        load: what is decoded; its ``batch`` is not used.
        limit: bytes of memory.
        batch: sentences of the batch that is shown (default: the largest that fits).
        recommended: the method that batch sizes are advised for, ``"kv"`` or ``"el"``.
    """

    def __init__(self, shape: ModelShape, load: Workload, limit: int, batch: Optional[int], recommended: str):
        self.shape, self.load, self.limit, self.batch, self.recommended = shape, load, limit, batch, recommended
        # Without cross-attention, there is no cross cache to share.
        self.methods = [name for name in METHODS if not (shape.decoder_only and name == "stock-shared")]
        self.largest = {name: largest_batch(name, shape, load, limit) for name in self.methods}
        self.largest_worst = {name: largest_batch(name, shape, load, limit, worst=True) for name in self.methods}

    @property
    def fits(self) -> bool:
        """Returns whether the recommended method decodes one sentence at least."""
        return self.largest[self.recommended] > 0

    def total_for(self, method: str, batch: int) -> int:
        """Bytes that a method is expected to need for a batch of so many sentences."""
        return memory(method, self.shape, replace(self.load, batch=batch)).total

    def as_dict(self) -> Dict[str, Any]:
        """Everything, in bytes."""
        load = {_IN_JSON.get(name, name): value for name, value in asdict(self.load).items() if name != "batch"}
        batches = {"expected": self.largest[self.recommended], "worst": self.largest_worst[self.recommended]}
        return {
            "model": asdict(self.shape),
            "workload": load,
            "memory": self.limit,
            "methods": {name: self._method_as_dict(name) for name in self.methods},
            "recommended": {
                "el_backend": self.load.backend,
                "el_self_attention": self.recommended,
                **{
                    case: {"batch_size": batch, "max_tokens": self._max_tokens(batch)}
                    for case, batch in batches.items()
                },
            },
        }

    def as_text(self) -> str:
        """The table, with the model above it and the advice below it."""
        headers = ["", *(METHODS[name].replace(", ", ",\n").replace(" shared", "\nshared") for name in self.methods)]
        align = ("left", *["right"] * len(self.methods))
        table = tabulate(self._rows(), headers, disable_numparse=True, colalign=align)
        return f"{self._title()}\n\n{table}\n\n{self._advice()}"

    def draw(self, path: Path, force: bool) -> None:
        """Draws memory against batch size: a line for each method, and the limit. Needs matplotlib.

        Args:
            force: replace a file of this name.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 5))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        last = max(int(1.15 * max(self.largest.values())), 8)
        batches = sorted({max(last * i // _POINTS, 1) for i in range(_POINTS + 1)})
        for name in self.methods:
            axes.plot(batches, [self.total_for(name, batch) / _GIB for batch in batches], label=METHODS[name])
        axes.axhline(self.limit / _GIB, color="black", linestyle="--", label=f"limit, {self.limit / _GIB:.4g} GiB")
        axes.set_xlim(0, last)
        axes.set_ylim(0, 1.5 * self.limit / _GIB)
        axes.set_xlabel("sentences in a batch")
        axes.set_ylabel("memory at the peak, GiB")
        load = self.load
        axes.set_title(f"beam {load.beam}, {load.src_len} tokens in, {load.tgt_len} out, {load.dtype}")
        axes.legend(frameon=False)
        figure.tight_layout()
        write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=150), force)

    def _shown_batch(self, method: str) -> int:
        return self.batch or max(self.largest[method], 1)

    def _breakdown(self, method: str, worst: bool) -> Breakdown:
        return memory(method, self.shape, replace(self.load, batch=self._shown_batch(method)), worst)

    def _max_tokens(self, batch_size: int) -> int:
        """``--max-tokens`` for a batch: fairseq counts its number of sentences times its longest source."""
        return batch_size * self.load.src_len

    def _method_as_dict(self, method: str) -> Dict[str, Any]:
        return {
            "title": METHODS[method],
            "batch": self._shown_batch(method),
            "expected": self._breakdown(method, worst=False).as_dict(),
            "worst": self._breakdown(method, worst=True).as_dict(),
            "largest_batch": {"expected": self.largest[method], "worst": self.largest_worst[method]},
        }

    def _rows(self) -> List[List[str]]:
        """The rows of the table: a title, and a cell for each method."""
        expected = {name: self._breakdown(name, worst=False) for name in self.methods}
        worst = {name: self._breakdown(name, worst=True) for name in self.methods}

        def row(title: str, cell: Callable[[str], str]) -> List[str]:
            return [title, *(cell(name) for name in self.methods)]

        def size_of(part: str) -> Callable[[str], str]:
            return lambda name: format_size(getattr(expected[name], part)) if getattr(expected[name], part) else "-"

        return [
            row("memory for a batch of", lambda name: f"{self._shown_batch(name):,}"),
            *(
                row(title, size_of(part))
                for title, part in _ROWS
                if any(getattr(breakdown, part) for breakdown in expected.values())
            ),
            row("total, expected", lambda name: format_size(expected[name].total)),
            row("b) decoder state, worst case", lambda name: format_size(worst[name].decoder_state)),
            row("total, worst case", lambda name: format_size(worst[name].total)),
            row("largest batch, expected", lambda name: f"{self.largest[name]:,}"),
            row("largest batch, worst case", lambda name: f"{self.largest_worst[name]:,}"),
        ]

    def _title(self) -> str:
        shape, load = self.shape, self.load
        layers = f"{shape.decoder_layers} layers"
        if not shape.decoder_only:
            layers = f"{shape.encoder_layers} + {layers}"
        source = "prompts" if shape.decoder_only else "sources"
        way = ""
        if load.device == "cpu":
            way = f", native code with {load.native_threads} threads" if load.native_threads else ", steps in Python"
            way = way.replace(" 1 threads", " 1 thread")
        weights = "weights + packed weights" if load.can_pack or load.int8 else "weights"
        return (
            f"{shape.parameters:,} parameters, {layers}, width {shape.decoder_dim}, {shape.vocab_size:,} words; "
            f"{load.dtype} on {load.device}{way}\n"
            f"beam {load.beam}, {source} of {load.src_len:,} tokens, {load.tgt_len:,} words out; "
            f"{format_size(self.limit)} of memory\n"
            f"total = {weights} + process + sources, words, scores + the larger of a and the sum of b"
        )

    def _advice(self) -> str:
        usual, safe = self.largest[self.recommended], self.largest_worst[self.recommended]
        if not self.fits:
            return f"With --el-self-attention {self.recommended} nothing fits."
        options = f"--el-self-attention {self.recommended} --el-encoder-tokens {self.load.encoder_tokens}"
        if self.load.backend != Workload.backend:  # not the default
            options = f"--el-backend {self.load.backend} {options}"
        if self.load.device == "cuda":
            options = f"--el-cuda-graphs {'on' if self.load.graphs else 'off'} {options}"
        if self.load.int8:
            options = f"--el-weights int8 {options}"
        lines = [
            f"Use: {options} --batch-size {usual} --max-tokens {self._max_tokens(usual)}",
            f"     if beams share their past as usual (--node-share {self.load.expected_node_share:g});",
        ]
        if safe > 0:
            lines.append(
                f"     --batch-size {safe} --max-tokens {self._max_tokens(safe)} fits even if they share nothing."
            )
        return "\n".join(lines)
