"""``fairseq-el calibrate``: measures this machine's rates, by which ``--el-backend auto`` chooses."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List

import torch
from tabulate import tabulate
from tqdm import tqdm

from fairseq_el.cli.options import device_of
from fairseq_el.cli.parser import add_command
from fairseq_el.cli.streams import write_line
from fairseq_el.dtypes import supported_dtype
from fairseq_el.errors import FairseqElError
from fairseq_el.planning import rates_path, refuse_to_replace_others_file, save_rates, this_processor
from fairseq_el.planning.calibration import Calibration, calibrate, num_measurements
from fairseq_el.units import format_seconds

_ENOUGH_CORES = 0.92  # of torch's threads: 0.95 and more where nothing else runs


_DESCRIPTION = """\
Measures for half a minute how fast this machine is at the operations of cross-attention. Writes it to $FAIRSEQ_EL_RATES
or to fairseq_el/rates.json in the user's cache directory, for the choice of --el-backend auto. Nothing else should be
running; the rates are for as many threads as torch uses (OMP_NUM_THREADS)."""


def add_parser(commands: Any, summary: str) -> None:
    parser = add_command(commands, "calibrate", run, summary, _DESCRIPTION)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="what is measured (default: cuda where there is a card)"
    )
    parser.add_argument("--json", action="store_true", help="print everything for programs, instead of the tables")


def run(options: argparse.Namespace) -> int:
    """Measures, writes the file, and shows what was measured beside what the model predicts.

    Raises:
        FairseqElError: other programs were running, the file can't be written, or a card can't be used.
    """
    refuse_to_replace_others_file()
    device = device_of(options.device)
    dtypes = [dtype for dtype in ("fp32", "bf16", "fp16") if supported_dtype(dtype, device)[0] == dtype]
    with tqdm(total=num_measurements(dtypes), unit="", leave=False, disable=None) as bar:

        def progress(what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update()

        calibration = calibrate(device, dtypes, progress)
    threads = torch.get_num_threads()
    if calibration.cores is not None and calibration.cores < _ENOUGH_CORES * threads:
        raise FairseqElError(
            f"torch computes with {threads} threads, but had {calibration.cores:.1f} cores while this was measured, so "
            "nothing was written. Repeat it when no other program is running, or with OMP_NUM_THREADS as large as the "
            "number of cores that decoding will have"
        )
    try:
        path = save_rates(device, calibration.rates)
    except OSError as error:
        raise FairseqElError(
            f"the rates could not be written to {rates_path()}: {error.strerror}. Name another file in FAIRSEQ_EL_RATES"
        ) from error
    write_line(json.dumps(_as_dict(calibration, path), indent=2) if options.json else _as_text(calibration, path))
    return 0


def _as_dict(calibration: Calibration, path: Path) -> Dict[str, Any]:
    return {
        "file": str(path),
        "device": calibration.device,
        "processor": asdict(this_processor(calibration.device)),
        "rates": {dtype: asdict(rates) for dtype, rates in calibration.rates.items()},
        "measurements": [{**asdict(found), "error": found.error} for found in calibration.measurements],
        "largest_error": calibration.largest_error,
        "cores": calibration.cores,
    }


def _as_text(calibration: Calibration, path: Path) -> str:
    processor = this_processor(calibration.device)
    threads = f", {processor.threads} threads" if processor.threads else ""
    parts = [f"{processor.name}{threads}, torch {processor.torch}", _rates(calibration), _measurements(calibration)]
    parts.append(f"Predictions are off by up to {calibration.largest_error:.0%}. Written to {path}")
    return "\n\n".join(parts)


def _rates(calibration: Calibration) -> str:
    rows = [
        [
            dtype,
            f"{rates.dense / 1e9:,.0f} GFLOP/s",
            f"{rates.shared / 1e9:,.0f} GFLOP/s",
            f"{rates.bandwidth / 1e9:,.1f} GB/s",
            f"{rates.stream / 1e9:,.1f} GB/s",
            format_seconds(rates.launch),
        ]
        for dtype, rates in calibration.rates.items()
    ]
    headers = ["", "large products", "products with\nshared memory", "reading keys\nand values", "copies", "each call"]
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 5))


def _measurements(calibration: Calibration) -> str:
    rows: List[List[str]] = [
        [
            found.dtype,
            found.operation,
            str(found.size),
            format_seconds(found.measured),
            format_seconds(found.predicted),
            f"{found.error:+.0%}",
        ]
        for found in calibration.measurements
    ]
    headers = ["", "one layer", "sentences x beams x tokens", "measured", "predicted", "error"]
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", "left", "left", "right", "right", "right"))
