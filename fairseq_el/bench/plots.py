"""A picture of throughput, time per step and memory. It needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from fairseq_el.bench.settings import Settings

_MIB = 1 << 20
Result = Dict[str, Any]


def plot(path: Path, settings: Settings, results: Sequence[Result], growth: Dict[str, Optional[float]]) -> None:
    """Draws lines where there are several batch sizes or source lengths, bars where there is one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    longest, largest = (max(result[key] for result in results) for key in ("src_len", "batch"))
    of_longest = [result for result in results if result["src_len"] == longest]
    of_largest = [result for result in results if result["batch"] == largest]
    several_lengths = len({result["src_len"] for result in results}) > 1
    with_steps = settings.per_step
    figure = Figure(figsize=(15 if with_steps else 10, 4.5))
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, 3 if with_steps else 2))
    _panel(axes.pop(0), of_longest, "batch", lambda r: r["sentences_per_second"], "sentences per second")
    if with_steps:
        _steps_panel(axes.pop(0), of_largest, growth)
    key, shown = ("source_longest", of_largest) if several_lengths else ("batch", of_longest)
    _panel(axes.pop(0), shown, key, lambda r: r["peak_bytes"] / _MIB, "peak memory of the process, MiB")
    length = f"{settings.tgt_len} words" if settings.tgt_len else "outputs of natural length"
    figure.suptitle(f"{Path(settings.path).name}: beam {settings.beam}, {length}, {settings.threads} threads")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def _panel(axes: Any, results: Sequence[Result], key: str, value: Callable[[Result], float], title: str) -> None:
    names = {"batch": "sentences in a batch", "source_longest": "tokens of the source"}
    if len({result[key] for result in results}) > 1:
        for method, mine in _by_method(results).items():
            axes.plot([r[key] for r in mine], [value(r) for r in mine], marker="o", label=method)
        axes.set_xticks(sorted({result[key] for result in results}))
        axes.set_xlabel(names[key])
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    else:
        methods = _by_method(results)
        axes.bar(list(methods), [value(mine[0]) for mine in methods.values()])
        axes.tick_params(axis="x", labelrotation=30)
        axes.set_xlabel(f"{results[0]['batch']} sentences, source of {results[0]['source_longest']} tokens")
    axes.set_title(title)


def _steps_panel(axes: Any, results: Sequence[Result], growth: Dict[str, Optional[float]]) -> None:
    """Both axes logarithmic, so that a power law is a straight line and its exponent the slope."""
    for method, mine in _by_method(results).items():
        exponent = growth.get(method)
        label = method if exponent is None else f"{method}: grows with length^{exponent:.2f}"
        positive = [r for r in mine if r["step_seconds_median"] > 0]
        x = [r["source_longest"] for r in positive]
        axes.plot(x, [1000 * r["step_seconds_median"] for r in positive], marker="o", label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    lengths = sorted({result["source_longest"] for result in results})
    axes.set_xticks(lengths, labels=list(map(str, lengths)))
    axes.minorticks_off()
    axes.set_xlabel("tokens of the source")
    axes.set_title(f"milliseconds per step, {results[0]['batch']} sentences")
    axes.legend(frameon=False)


def _by_method(results: Sequence[Result]) -> Dict[str, List[Result]]:
    methods: Dict[str, List[Result]] = {}
    for result in results:
        methods.setdefault(result["method"], []).append(result)
    for mine in methods.values():
        mine.sort(key=lambda result: (result["batch"], result["source_longest"]))
    return methods
