"""The results of a comparison as JSON, as a table, and as files."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import fairseq
import torch
from tabulate import tabulate

from fairseq_el.bench.measurement import Measurement
from fairseq_el.bench.methods import EL_KINDS
from fairseq_el.bench.plots import plot
from fairseq_el.bench.settings import Settings
from fairseq_el.files import write_whole
from fairseq_el.generation import uses_graphs
from fairseq_el.measure import growth_exponent, spread, step_seconds, times_faster
from fairseq_el.planning import num_cores, processor_name
from fairseq_el.units import format_size

NAMES = ("bench.json", "bench.md", "bench.png")
_MEMORY = {
    "cpu": "Memory: resident, of the whole process with Python, torch and fairseq; loaded: before the first batch.",
    "cuda": "Memory: bytes of live tensors on the card, weights included; loaded: before the first batch.",
}


class Report:
    """All measurements of one call.

    Args:
        settings: that were asked for.
        measurements: all methods for one kind of batch, then for the next.
        facts: about the model and the data set.
        notes: more notes for the reader, after those of :func:`_notes`.
    """

    def __init__(
        self, settings: Settings, measurements: Sequence[Measurement], facts: Dict[str, Any], notes: Sequence[str]
    ):
        self.settings, self.measurements = settings, measurements
        self.signature = _signature(settings, facts)
        baselines = {
            measurement.spec: measurement for measurement in measurements if measurement.method == settings.baseline
        }
        self.results = [_result(settings, measurement, baselines[measurement.spec]) for measurement in measurements]
        self.growth = growth(self.results, "source_longest") if settings.per_step else {}
        self.growth_with_batch = growth(self.results, "batch") if settings.per_step else {}
        self.notes = [*_notes(settings, measurements), *self._growth_notes(), *notes]

    def as_dict(self) -> Dict[str, Any]:
        return {
            "signature": self.signature,
            "baseline": self.settings.baseline.label,
            "results": self.results,
            "growth_of_step_time_with_source": self.growth,
            "growth_of_step_time_with_batch": self.growth_with_batch,
            "notes": self.notes,
        }

    def as_text(self) -> str:
        notes = "\n".join(self.notes)
        return f"{_table(self.settings, self.results, 'simple')}\n\n{notes}\n\n{self._signature_line()}"

    def as_markdown(self) -> str:
        notes = "\n".join(f"- {note}" for note in self.notes)
        title = (
            f"# {Path(self.settings.path).name}: {', '.join(t.method.label for t in _first_of_each(self.measurements))}"
        )
        return f"{title}\n\n{_table(self.settings, self.results, 'github')}\n\n{notes}\n\n`{self._signature_line()}`\n"

    def write(self, directory: Path, force: bool) -> None:
        """Writes the files ``NAMES``. An unfinished file never has its final name; ``force`` replaces files."""
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_dict(), indent=2) + "\n"
        write_whole(directory / "bench.json", lambda path: path.write_text(text, "utf-8"), force)
        write_whole(directory / "bench.md", lambda path: path.write_text(self.as_markdown(), "utf-8"), force)
        write_whole(directory / "bench.png", lambda path: plot(path, self.settings, self.results, self.growth), force)

    def _growth_notes(self) -> List[str]:
        notes = []
        for exponents, of_what in ((self.growth, "tokens of the source"), (self.growth_with_batch, "sentences")):
            known = [f"{name} {value:.2f}" for name, value in exponents.items() if value is not None]
            if known:
                notes.append(f"Fitted growth of the time per step with {of_what}, as an exponent: {', '.join(known)}.")
        return notes

    def _signature_line(self) -> str:
        return "; ".join(f"{name} {value}" for name, value in self.signature.items())


def _result(settings: Settings, measurement: Measurement, baseline: Measurement) -> Dict[str, Any]:
    assert measurement.agreement is not None and measurement.score_error is not None
    seconds = measurement.seconds[settings.tgt_len]
    result: Dict[str, Any] = {
        "method": measurement.method.label,
        "batch": measurement.spec.batch,
        "src_len": measurement.spec.src_len,
        **{f"source_{name}" if name != "sentences" else name: value for name, value in measurement.batch.items()},
        "words_out": sum(len(output.tokens) for output in measurement.outputs[settings.tgt_len]),
        "seconds": seconds,
        "seconds_median": spread(seconds).median,
        "sentences_per_second": measurement.batch["sentences"] / spread(seconds).median,
        "times_faster": asdict(times_faster(seconds, baseline.seconds[settings.tgt_len])),
        "peak_bytes": measurement.peak_bytes,
        "loaded_bytes": measurement.loaded_bytes,
        "identical_to_stock": measurement.agreement.num_identical / measurement.agreement.sentences,
        "score_difference": measurement.agreement.largest_gap,
        "score_error": asdict(measurement.score_error),
        "score_error_of_stock": None
        if measurement.stock_score_error is None
        else asdict(measurement.stock_score_error),
    }
    if settings.per_step:
        mine, theirs = step_seconds(measurement.seconds), step_seconds(baseline.seconds)
        result["step_seconds"] = mine
        result["step_seconds_median"] = spread(mine).median
        result["steps_times_faster"] = asdict(times_faster(mine, theirs)) if min(mine) > 0 else None
    return result


def growth(results: Sequence[Dict[str, Any]], along: str) -> Dict[str, Optional[float]]:
    """Exponents of the time per step, by method: along ``"source_longest"``, or along ``"batch"``.

    The other of the two has its largest value.
    """
    other = "batch" if along == "source_longest" else "src_len"
    largest = max(result[other] for result in results)
    exponents = {}
    for name in dict.fromkeys(result["method"] for result in results):
        mine = [result for result in results if result["method"] == name and result[other] == largest]
        steps = [result["step_seconds_median"] for result in mine]
        exponents[name] = growth_exponent([result[along] for result in mine], steps)
    return exponents


def _table(settings: Settings, results: Sequence[Dict[str, Any]], style: str) -> str:
    headers = ["method", "batch", "source", "time", "sentences/s", "times as fast (min to max)"]
    headers += ["time per step", "steps, times as fast"] if settings.per_step else []
    headers += ["peak memory", "above loaded", "identical to stock", "score error, word", "whole"]
    rows = [_row(settings, result) for result in results]
    alignment = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, tablefmt=style, disable_numparse=True, colalign=alignment)


def _row(settings: Settings, result: Dict[str, Any]) -> List[str]:
    def ratio(spread_: Optional[Dict[str, float]]) -> str:
        if spread_ is None:
            return "-"
        return f"{spread_['median']:.2f} ({spread_['minimum']:.2f} to {spread_['maximum']:.2f})"

    def number(value: Optional[float]) -> str:
        return "-" if value is None else f"{value:.1e}"

    row = [
        result["method"],
        f"{result['batch']:,}",
        f"{result['source_longest']:,}",
        f"{result['seconds_median']:.3f} s",
        f"{result['sentences_per_second']:.2f}",
        ratio(result["times_faster"]),
    ]
    if settings.per_step:
        row += [f"{1000 * result['step_seconds_median']:.2f} ms", ratio(result["steps_times_faster"])]
    above = max(result["peak_bytes"] - result["loaded_bytes"], 0)
    same = round(result["identical_to_stock"] * result["sentences"])
    is_counted = settings.device == "cpu" or not result["method"].startswith("ct2")
    row += [format_size(size) if is_counted else "-" for size in (result["peak_bytes"], above)]
    row += [f"{same} of {result['sentences']}"]
    return [*row, number(result["score_error"]["per_word"]), number(result["score_error"]["whole"])]


def _first_of_each(measurements: Sequence[Measurement]) -> List[Measurement]:
    return list({measurement.method.label: measurement for measurement in reversed(measurements)}.values())[::-1]


def _notes(settings: Settings, measurements: Sequence[Measurement]) -> List[str]:
    kinds = {measurement.method.kind for measurement in measurements}
    notes = [
        f"Time: from ids to ids, encoder included; medians of {settings.runs} rounds; all take turns in each.",
        f"Times as fast: as {settings.baseline.label}, in every round; of these the median.",
        _MEMORY[settings.device],
        "Score error: root mean square, against what stock in fp32 gives the same words; of words, and of sums divided "
        "by length.",
    ]
    if settings.per_step:
        short, long = settings.tgt_lens
        notes.append(f"Time per step: what {long} words take more than {short}, divided by {long - short}.")
    if settings.no_repeat_ngram_size and "stock" in kinds:
        notes.append(
            "Stock's n-gram blocking is given the words written so far: as stock calls it on a CPU, it blocks nothing."
            if settings.device == "cpu"
            else "Stock blocks n-grams with fairseq's CUDA extension."
        )
    if settings.device == "cuda" and kinds & set(EL_KINDS):
        notes.append(
            "EL-attention replays steps of plain beam search from CUDA graphs where it can (--el-cuda-graphs auto)."
            if uses_graphs("auto", torch.device(settings.device))
            else "EL-attention runs without CUDA graphs (--el-cuda-graphs auto)."
        )
    if kinds & {"hf", "ct2"}:
        notes.append("hf and ct2 score their outputs after they have written them, in one pass.")
    if "ct2" in kinds:
        notes.append(
            "ct2's search spreads what forbidden words had (eos, n-grams) over the others, so it may choose other ones."
        )
    if "ct2" in kinds and settings.device == "cuda":
        notes.append("The memory of ct2 on a card is not counted: it does not take it from torch.")
    if "ct2" in kinds and settings.tgt_len:
        notes.append(
            f"ct2 writes {settings.tgt_len} words and no eos: one step less than the others, and no score of it."
        )
    return notes


def _signature(settings: Settings, facts: Dict[str, Any]) -> Dict[str, Any]:
    shape = facts["shape"]
    of_model = (
        f"{shape['encoder_layers']}+{shape['decoder_layers']} layers, width {shape['decoder_dim']}, "
        f"{shape['vocab_size']} words, {shape['parameters']} weights"
    )
    return {
        "fairseq_el": sys.modules["fairseq_el"].__version__,
        "fairseq": fairseq.__version__,
        "torch": torch.__version__,
        **{name: _version(name) for name in ("ctranslate2", "transformers")},
        "Python": platform.python_version(),
        "processor": processor_name(),
        "device": torch.cuda.get_device_name() if settings.device == "cuda" else "cpu",
        "cores": num_cores(),
        "threads": settings.threads,
        "model": of_model,
        "dtypes": ",".join(dict.fromkeys(method.dtype for method in settings.methods)),
        "batch": ",".join(map(str, settings.batches)) + (" (whole set)" if settings.whole_set else ""),
        "beam": settings.beam,
        "src-len": ",".join(map(str, settings.src_lens)) or f"as it is, at most {facts['max_source']}",
        "tgt-len": settings.tgt_len or f"natural, at most {settings.natural_length}",
        "runs": settings.runs,
        "command": settings.command,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
