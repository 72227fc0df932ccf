"""The results of ``slim_training.py`` as JSON, as a table, and as a picture (which needs matplotlib)."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Sequence

import torch
from slim_measuring import OURS, SlimResult, SlimSettings
from tabulate import tabulate

from fairseq_el.bench.report import write_texts
from fairseq_el.files import write_whole
from fairseq_el.units import format_seconds, format_size

NAMES = ("slim.json", "slim.md")


class SlimReport:
    def __init__(self, settings: SlimSettings, results: Sequence[SlimResult]):
        self.settings, self.results = settings, results

    def as_dict(self) -> Dict[str, Any]:
        settings = {**asdict(self.settings), "authors": str(self.settings.authors) if self.settings.authors else None}
        return {
            "settings": settings,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "results": [result.as_dict() for result in self.results],
        }

    def as_text(self, style: str = "simple") -> str:
        rows = [self._row(result) for result in self.results]
        table = tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True)
        return f"{table}\n\n" + "\n".join(self._notes())

    def _row(self, result: SlimResult) -> Dict[str, str]:
        first = next(r for r in self.results if r.length == result.length)
        row = {
            "L": str(result.length),
            "C": str(result.slice_length or "full"),
            "program": result.program,
            "activations": "-" if result.peak_bytes is None else format_size(result.peak_bytes),
            "of the first": _ratio(result.peak_bytes, first.peak_bytes),
            "time": "-" if result.median is None else format_seconds(result.median),
            "to the first": _ratio(result.median, first.median),
            "gap of gradient": f"{result.gap:.1e}",
        }
        if self.settings.authors is None:
            del row["program"]
        return row

    def _notes(self) -> List[str]:
        s = self.settings
        where = f"{s.threads} threads" if s.device == "cpu" else torch.cuda.get_device_name()
        return [
            f"{s.layers} layers, d {s.width}, feed-forward {s.ffn}, {s.heads} heads, {s.feature_map}, fp32, one "
            f"sequence of L random bytes, forward and backward; {where}, torch {torch.__version__}.",
            "activations: bytes of live tensors at the peak, without tokens, parameters and their gradients.",
            f"time: median of {s.runs} rounds, all in turn in each. Ratios are to the first row of the same L.",
            f"gap: |g - g'| / |g'| over all parameters, g' of {OURS} with the largest C.",
            f"command: {s.command}",
        ]

    def write(self, directory: Path, force: bool) -> None:
        write_texts(directory, "slim", self.as_dict(), self.as_text("github") + "\n", force)

    def plot(self, path: Path, force: bool) -> None:
        """Bytes and time, where they are known, against C, or against L where there are more of these."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4.5))
        FigureCanvasAgg(figure)
        by_length = len(self.settings.lengths) > len(self.settings.slices)
        titles = {"peak_bytes": "activations at the peak, MiB", "seconds_median": "seconds"}
        shown = [key for key in titles if all(result.as_dict()[key] for result in self.results)]
        for axes, key in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
            scale = 1 << 20 if key == "peak_bytes" else 1
            for label, line in self._lines(by_length).items():
                points = [(r["length"] if by_length else r["slice_length"] or r["length"], r[key]) for r in line]
                points = sorted((x, y / scale) for x, y in points)
                axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel("L, bytes of a sequence" if by_length else "C, bytes of a slice")
            axes.set_title(titles[key])
            axes.legend(frameon=False)
        s = self.settings
        figure.suptitle(f"SLiM Performer, {s.layers} layers, d {s.width}, {s.feature_map}, {s.device}")
        figure.tight_layout()
        write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=150), force)

    def _lines(self, by_length: bool) -> Dict[str, List[Dict[str, Any]]]:
        lines: Dict[str, List[Dict[str, Any]]] = {}
        for result in self.results:
            which = f"C {result.slice_length or 'full'}" if by_length else f"L {result.length}"
            label = which if self.settings.authors is None else f"{which}, {result.program}"
            lines.setdefault(label, []).append(result.as_dict())
        return lines


def _ratio(value: Any, first: Any) -> str:
    return "-" if value is None or not first else f"{value / first:.3g}"
