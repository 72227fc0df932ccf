"""Memory against batch size, as a picture. Needs matplotlib."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Sequence

from fairseq_el.files import write_whole
from fairseq_el.planning import METHODS, ModelShape, Workload, largest_batch, memory

_GIB = 1 << 30
_POINTS = 120


def draw(path: Path, shape: ModelShape, work: Workload, limit: int, methods: Sequence[str], force: bool) -> None:
    """Draws one line per method, and the limit. With ``force``, a file of the name ``path`` is replaced."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    last = max(int(1.15 * max(largest_batch(name, shape, work, limit) for name in methods)), 8)
    batches = sorted({max(last * i // _POINTS, 1) for i in range(_POINTS + 1)})
    for name in methods:
        totals = [memory(name, shape, replace(work, batch=batch)).total / _GIB for batch in batches]
        axes.plot(batches, totals, label=METHODS[name])
    axes.axhline(limit / _GIB, color="black", linestyle="--", label=f"limit, {limit / _GIB:.4g} GiB")
    axes.set_xlim(0, last)
    axes.set_ylim(0, 1.5 * limit / _GIB)
    axes.set_xlabel("sentences in a batch")
    axes.set_ylabel("memory at the peak, GiB")
    axes.set_title(f"beam {work.beam}, {work.src_len} tokens in, {work.tgt_len} out, {work.dtype}")
    axes.legend(frameon=False)
    figure.tight_layout()
    write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=150), force)
