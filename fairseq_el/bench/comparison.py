"""The whole comparison: starts programs, checks their outputs, and times them in turn."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Dict, List, Tuple

from tqdm import tqdm

from fairseq_el.bench.measurement import Measurement
from fairseq_el.bench.methods import EXACT_DTYPES, Method, missing_package
from fairseq_el.bench.output_checks import check_form, compare, require_agreement, require_rounding, score_error
from fairseq_el.bench.programs import ScoredOutput, reads_prompts
from fairseq_el.bench.reference_outputs import References, facts_and_conversion
from fairseq_el.bench.report import Report
from fairseq_el.bench.settings import BatchSpec, Settings
from fairseq_el.bench.worker_client import WorkerProcess
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.measure import rotated

_REST = 0.25  # seconds until threads that wait for more work, as OpenMP's do, have gone to sleep


def compare_programs(settings: Settings) -> Report:
    """Measures everything that the settings ask for.

    Raises:
        OptionError: the settings do not fit the model or the data set.
        FairseqElError: a program could not be run, or its outputs are wrong.
    """
    notes: List[str] = []
    methods = _available(settings, notes)
    with tempfile.TemporaryDirectory(prefix="fairseq-el-bench-") as directory:
        scratch = Path(directory)
        settings = replace(settings, converted=str(scratch / "ct2"))
        facts = facts_and_conversion(settings, methods, scratch)
        if "conversion_error" in facts:
            notes.append(f"Left out: {facts['conversion_error']}.")
            methods = [method for method in methods if method.kind != "ct2"]
        settings = with_fair_blocking(settings, facts["has_ngram_extension"], notes)
        settings = replace(settings, natural_length=min(settings.natural_length, facts["max_target"] - 1))
        specs = batch_specs(settings, facts)
        references = References(settings, methods, specs, scratch, facts)
        measurements: List[Measurement] = []
        with contextlib.ExitStack() as stack:
            workers = _start(settings, methods, scratch, stack, notes)
            calls = len(specs) * len(workers) * len(settings.tgt_lens) * (settings.warmup + settings.runs)
            with tqdm(total=calls, desc="decoding", unit="batch", leave=False, disable=None) as progress:
                for spec in specs:
                    measurements += _measure(settings, spec, workers, references, progress)
        _check_scores(settings, measurements, references)
    return Report(settings, measurements, facts, notes)


def _available(settings: Settings, notes: List[str]) -> List[Method]:
    """The methods that can run here; without those that cannot, if the user asked for all there are."""
    methods = []
    for method in settings.methods:
        package, problem = missing_package(method), ""
        if package is not None:
            problem = f"{method.label} needs {package}: pip install fairseq_el[bench]"
        elif reads_prompts(settings.data) and not method.is_fairseq:
            problem = f"{method.label} decodes no language models here; leave it out"
        elif settings.diverse_beam_groups and not method.is_fairseq:
            problem = f"{method.label} has no diverse beam search; leave out --diverse-beam-groups, or the method"
        if problem and not method.may_be_missing:
            raise FairseqElError(problem)
        if problem:
            notes.append(f"Left out: {problem}.")
        else:
            methods.append(method)
    if settings.baseline not in methods:
        raise OptionError(f"--baseline must be one of the methods that run; it is {settings.baseline.label}")
    return methods


def with_fair_blocking(settings: Settings, has_extension: bool, notes: List[str]) -> Settings:
    """Leaves out the blocking of n-grams where stock can't do it well: on a card without fairseq's CUDA extension.

    Stock then looks for n-grams in Python and waits for the card twice for every row, in vain: it blocks nothing. On a
    CPU it is given a blocker that works.

    Args:
        notes: gets what the reader must know.
    """
    if settings.device == "cpu" or not settings.no_repeat_ngram_size or has_extension:
        return settings
    notes.append(
        "No program blocks n-grams: fairseq's CUDA extension for that is not compiled here, and without it stock waits "
        "for the card twice for every hypothesis in every step."
    )
    return replace(settings, no_repeat_ngram_size=0)


def batch_specs(settings: Settings, facts: Dict[str, Any]) -> List[BatchSpec]:
    """Every combination of source length and batch size.

    Raises:
        OptionError: the model is too short for a length, or the data set has too few sentences.
    """
    sentences, longest_source, longest_target = (facts[key] for key in ("sentences", "max_source", "max_target"))
    for batch in settings.batches:
        if batch > sentences:
            raise OptionError(
                f"--batch must be at most {sentences}, which is how many sentences {settings.subset} has; got {batch}"
            )
    if reads_prompts(settings.data) and not settings.src_lens:
        raise OptionError("--src-len is needed with a language model: all prompts are cut to so many tokens")
    for src_len in settings.src_lens:
        if not 2 <= src_len <= longest_source:
            raise OptionError(f"--src-len must be from 2 to {longest_source}, what the model reads; got {src_len}")
    if settings.tgt_len >= longest_target:
        raise OptionError(f"--tgt-len must be below {longest_target}, what the model writes; got {settings.tgt_len}")
    pairs = product(settings.src_lens or (longest_source,), settings.batches)
    return [BatchSpec(batch, src_len, settings.whole_set) for src_len, batch in pairs]


def _start(
    settings: Settings, methods: List[Method], scratch: Path, stack: contextlib.ExitStack, notes: List[str]
) -> List[Tuple[Method, WorkerProcess]]:
    """One worker per method; models are loaded one after the other, because loading takes memory too."""
    started = [
        (method, stack.enter_context(WorkerProcess(settings, method, method.label, scratch))) for method in methods
    ]
    workers = []
    for method, worker in started:
        try:
            worker.load()
        except FairseqElError as error:
            if not method.may_be_missing:
                raise
            notes.append(f"Left out: {error}.")
            continue
        workers.append((method, worker))
    if settings.baseline not in [method for method, _ in workers]:
        raise FairseqElError(f"the baseline, {settings.baseline.label}, does not run. {' '.join(notes)}")
    return workers


def _measure(
    settings: Settings,
    spec: BatchSpec,
    workers: List[Tuple[Method, WorkerProcess]],
    references: References,
    progress: Any,
) -> List[Measurement]:
    """All methods with one kind of batch: warm-up, check of the outputs, timed rounds."""
    measurements = [Measurement(method, spec, worker) for method, worker in workers]
    for measurement in measurements:
        measurement.prepare()
        measurement.warm_up(settings.tgt_lens, settings.warmup)
        progress.update(settings.warmup * len(settings.tgt_lens))
    references.add([(measurement.method, spec, measurement.outputs) for measurement in measurements])
    for measurement in measurements:
        _check_outputs(settings, measurement, references)
        measurement.worker.ask("reset_peak")
    for turn in range(settings.runs):
        for measurement in rotated(measurements, turn):
            for tgt_len in settings.tgt_lens:
                if settings.threads > 1:
                    time.sleep(_REST)
                measurement.time(tgt_len)
                progress.update()
    for measurement in measurements:
        measurement.finish()
    return measurements


def _check_outputs(settings: Settings, measurement: Measurement, references: References) -> None:
    """Compares outputs of every length with stock's in the same dtype."""
    method = measurement.method
    name = f"{method.label}, {measurement.spec}"
    for tgt_len, outputs in measurement.outputs.items():
        check_form(name, outputs, tgt_len, references.vocab_size, references.eos, writes_eos=method.kind != "ct2")
        stock = references.outputs(method.stock_dtype, measurement.spec, tgt_len)
        measurement.agreement = compare(outputs, stock, references.eos)
        if method.is_fairseq and method.dtype in EXACT_DTYPES:
            require_agreement(name, outputs, stock, measurement.agreement)
        elif method.kind == "hf" and method.dtype in EXACT_DTYPES and settings.check_others:
            require_agreement(
                f"{name} (--no-check-others lets it pass)", outputs, stock, measurement.agreement, float("inf")
            )


def _check_scores(settings: Settings, measurements: List[Measurement], references: References) -> None:
    """Compares scores of the longest outputs with stock's in float32; in 16 bits, errors must be like stock's."""
    wanted: List[Tuple[BatchSpec, List[ScoredOutput]]] = [
        (measurement.spec, measurement.outputs[settings.tgt_len]) for measurement in measurements
    ]
    low = sorted({t.method.stock_dtype for t in measurements} - set(EXACT_DTYPES))
    specs = list(dict.fromkeys(measurement.spec for measurement in measurements))
    of_stock = [(dtype, spec) for dtype in low for spec in specs]
    wanted += [(spec, references.outputs(dtype, spec, settings.tgt_len)) for dtype, spec in of_stock]
    scores = references.scores(wanted)
    errors = [score_error(outputs, found, settings.lenpen) for (_, outputs), found in zip(wanted, scores)]
    stock_errors = dict(zip(of_stock, errors[len(measurements) :]))
    for measurement, error in zip(measurements, errors):
        measurement.score_error = error
        method = measurement.method
        if (method.stock_dtype, measurement.spec) not in stock_errors:
            continue
        measurement.stock_score_error = stock_errors[method.stock_dtype, measurement.spec]
        if method.is_fairseq or settings.check_others:
            require_rounding(f"{method.label}, {measurement.spec}", error, measurement.stock_score_error)
