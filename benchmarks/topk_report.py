"""The results of ``topk_layers.py`` as JSON, as a table, and as a picture (which needs matplotlib)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from exact_and_topk_layers import AttentionLayers
from tabulate import tabulate
from topk_measuring import TopkResult, TopkSettings

from fairseq_el.bench.report import write_texts
from fairseq_el.errors import FairseqElError
from fairseq_el.files import write_whole
from fairseq_el.measure import growth_exponent
from fairseq_el.ops import MOST_QUERIES
from fairseq_el.units import format_seconds, format_size

NAMES = ("topk.json", "topk.md", "topk.png")
_TITLES = {"peak_bytes": "live bytes at the peak, GiB", "seconds_median": "seconds"}


class TopkReport:
    """All results of one call.

    Attributes:
        along: the size that has most values, against which growth is fitted and drawn.
        growth: exponents of live bytes, by method, direction and the other sizes.
    """

    def __init__(self, settings: TopkSettings, results: Sequence[TopkResult]):
        self.settings, self.results = settings, results
        self.along = max(results[0].sizes, key=lambda name: len({result.sizes[name] for result in results}))
        self.growth = {name: self._exponent(line) for name, line in self._lines().items()}

    def as_dict(self) -> Dict[str, Any]:
        settings = {
            **asdict(self.settings),
            "methods": [method.label for method in self.settings.methods],
            "baseline": self.settings.baseline.label,
        }
        return {
            "settings": settings,
            "torch": torch.__version__,
            "device": self._where(),
            "results": [_record(result) for result in self.results],
            "growth_of_bytes": self.growth,
        }

    def as_text(self, style: str = "simple") -> str:
        rows = [self._row(result) for result in self.results]
        right = ("right",) * len(rows[0])
        table = tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=right)
        return f"{table}\n\n" + "\n".join(self._notes())

    def _row(self, result: TopkResult) -> Dict[str, str]:
        baseline = self._of_baseline(result)
        row = {name: f"{size:,}" for name, size in result.sizes.items()}
        row.update({"direction": result.direction, "method": result.method.label, "live bytes": _bytes(result)})
        row["of the baseline"] = f"{result.peak_bytes / baseline:.3f}" if result.peak_bytes and baseline else "-"
        row["time"] = "-" if result.median is None else format_seconds(result.median)
        faster = result.faster
        row["times as fast (min to max)"] = (
            "-" if faster is None else f"{faster.median:.2f} ({faster.minimum:.2f} to {faster.maximum:.2f})"
        )
        return row

    def _of_baseline(self, result: TopkResult) -> Optional[int]:
        same = [r for r in self.results if (r.sizes, r.direction) == (result.sizes, result.direction)]
        return next((r.peak_bytes for r in same if r.method == self.settings.baseline), None)

    def _notes(self) -> List[str]:
        s, layers = self.settings, self.settings.layers[0]
        if isinstance(layers, AttentionLayers):
            what = (
                f"Attention over given queries, keys and values: batch {layers.batch}, {layers.heads} heads of "
                f"{layers.head_dim}, {'causal' if layers.causal else 'not causal'}, k {layers.k}, {layers.chunk} "
                f"queries at a time, of topk {min(layers.chunk, MOST_QUERIES)}; further layers get theirs by three "
                "linear maps."
            )
        else:
            what = f"Feed-forward layer with ReLU: width {layers.width}, k {layers.k}, {layers.chunk} tokens at a time."
        notes = [
            f"{what} {s.dtype}, {self._where()}, torch {torch.__version__}.",
            "Live bytes: of all tensors at the peak, counted, with what is given (inputs and weights that require "
            "gradients, the gradient of the output) and what comes out; not what an operator uses inside. In brackets: "
            "about what a method would need that was left out (--memory).",
            "forward: without gradients. both: forward and backward; chunked computes every chunk again for it.",
        ]
        if s.runs:
            notes.append(
                f"Time: median of {s.runs} rounds, in each of which all take turns, after one in which bytes were "
                f"counted. Times as fast: as {s.baseline.label}, in every round; of these the median."
            )
        known = [f"{name} {exponent:.2f}" for name, exponent in self.growth.items() if exponent is not None]
        if known:
            notes.append(f"Fitted growth of live bytes with {self.along}, as an exponent: {'; '.join(known)}.")
        return [*notes, f"command: {s.command}"]

    def _where(self) -> str:
        if self.settings.device == "cuda":
            return torch.cuda.get_device_name()
        return f"cpu, {self.settings.threads} threads"

    def _exponent(self, line: Sequence[Tuple[int, TopkResult]]) -> Optional[float]:
        counted = [(size, result.peak_bytes) for size, result in line if result.peak_bytes]
        return growth_exponent(*zip(*counted)) if counted else None

    def _lines(self) -> Dict[str, List[Tuple[int, TopkResult]]]:
        """Results by all that is not the size along which there are most."""
        lines: Dict[str, List[Tuple[int, TopkResult]]] = {}
        for result in self.results:
            others = [f"{name} {size:,}" for name, size in result.sizes.items() if name != self.along]
            name = ", ".join([result.method.label, result.direction, *others])
            lines.setdefault(name, []).append((result.sizes[self.along], result))
        return lines

    def write(self, directory: Path, force: bool) -> None:
        write_texts(directory, "topk", self.as_dict(), self.as_text("github") + "\n", force)
        self.plot(directory / "topk.png", force)

    def plot(self, path: Path, force: bool) -> None:
        """Bytes and time, where they are known, one row of panels per direction; both axes logarithmic.

        Raises:
            FairseqElError: nothing is known.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        records = [_record(result) for result in self.results]
        shown = [key for key in _TITLES if any(record[key] for record in records)]
        if not shown:
            raise FairseqElError(
                f"there is nothing to draw in {path}: every method would need more than --memory and was left out"
            )
        directions = self.settings.directions
        figure = Figure(figsize=(6 * len(shown), 4.5 * len(directions)))
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(directions), len(shown), squeeze=False)
        for direction, row in zip(directions, panels):
            for key, axes in zip(shown, row):
                self._panel(axes, key, direction)
        figure.tight_layout()
        write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=150), force)

    def _panel(self, axes: Any, key: str, direction: str) -> None:
        scale = 1 << 30 if key == "peak_bytes" else 1
        for name, line in self._lines().items():
            points = [(size, _record(result)[key]) for size, result in line if result.direction == direction]
            known = [(size, value / scale) for size, value in points if value]
            if known:
                axes.plot(*zip(*known), marker="o", label=name.replace(f", {direction}", ""))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(self.along)
        axes.set_title(f"{direction}: {_TITLES[key]}")
        axes.legend(frameon=False)


def _record(result: TopkResult) -> Dict[str, Any]:
    record = {**asdict(result), **result.sizes, "method": result.method.label, "seconds": list(result.seconds)}
    del record["sizes"]
    return {**record, "seconds_median": result.median}


def _bytes(result: TopkResult) -> str:
    if result.peak_bytes is not None:
        return format_size(result.peak_bytes)
    return "-" if result.expected_bytes is None else f"({format_size(result.expected_bytes)})"
