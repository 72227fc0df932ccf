"""The rates of a machine in decoding: five numbers for each device and dtype, measured or by default.

``fairseq-el calibrate`` measures them and writes ``fairseq_el/rates.json`` in the user's cache directory
(``$XDG_CACHE_HOME``, or ``~/.cache``); the environment variable ``FAIRSEQ_EL_RATES`` names another file.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

import torch

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.files import FILE, kind_of, read_json, write_whole
from fairseq_el.planning.machine import processor_name

logger = logging.getLogger(__name__)

_VERSION = 1  # of the file
_UNUSABLE = (FairseqElError, ValueError, TypeError, KeyError, AttributeError, OverflowError)  # of a file of any content


@dataclass(frozen=True)
class Rates:
    """The rates of a device in one dtype.

    Attributes:
        dense: FLOP/s of large products, such as the projection of a batch's keys (a thousand rows and more).
        shared: FLOP/s of EL-attention's products, which have beams times heads rows per sentence.
        bandwidth: bytes/s that attention over keys and values reads, which has as many rows per head as beams.
        stream: bytes/s that everything else reads and writes: what a large copy does.
        launch: seconds that every operation takes besides: the call, small copies, the launch of kernels.
    """

    dense: float
    shared: float
    bandwidth: float
    stream: float
    launch: float


@dataclass(frozen=True)
class Processor:
    """The processor or card that rates were measured on. They are not used on another one.

    Attributes:
        name: the name of the processor or card.
        threads: threads that torch uses (0 on a card).
        torch: the version of torch.
    """

    name: str
    threads: int
    torch: str


# CPU: the mean of 2 cores of an Intel Xeon (Sapphire Rapids) and of an AMD Zen 5, one layer and step of 16 sentences of
# 1,024 tokens, 4 beams, 16 heads, width 1,024. EL took 32 and 29 ms in fp32, 12 and 8.4 ms in bf16; attention over keys
# and values 11 and 6.4 ms, 8 and 3.4 ms; projecting these 320 and 355 ms, 130 and 88 ms. Large copies (20 GB/s) and
# calls (13 us) were measured on the Xeon alone. More cores make all of it faster; which backend is faster depends on
# ratios. fp64 was not measured: half as many numbers fit a register. Nor was fp16: it is taken to be as fast as fp32,
# to which processors without instructions for it convert.
_CPU_FP32 = Rates(dense=212e9, shared=152e9, bandwidth=16.7e9, stream=20e9, launch=13e-6)
_CPU = {
    "fp32": _CPU_FP32,
    "bf16": Rates(dense=704e9, shared=475e9, bandwidth=14.2e9, stream=20e9, launch=13e-6),
    "fp16": _CPU_FP32,
    "fp64": Rates(dense=106e9, shared=76e9, bandwidth=16.7e9, stream=20e9, launch=13e-6),
}


@dataclass(frozen=True)
class DataSheet:
    """The peaks of a card, as NVIDIA states them.

    Attributes:
        name: the name of the card.
        flops: dense FLOP/s by dtype: in 16 bits those of tensor cores, in float32 and float64 those without.
        bandwidth: bytes/s of its memory.
    """

    name: str
    flops: Mapping[str, float]
    bandwidth: float


# By compute capability, which cards of one chip share: an H200 counts as an H100, an A30 as an A100.
DATA_SHEETS: Dict[Tuple[int, int], DataSheet] = {
    (7, 0): DataSheet("V100 SXM2 16 GB", {"fp16": 125e12, "fp32": 15.7e12, "fp64": 7.8e12}, 900e9),
    (8, 0): DataSheet("A100 SXM 80 GB", {"fp16": 312e12, "fp32": 19.5e12, "fp64": 9.7e12}, 2039e9),
    (9, 0): DataSheet("H100 SXM", {"fp16": 989e12, "fp32": 67e12, "fp64": 34e12}, 3350e9),
}
_UNKNOWN_CARD = (7, 0)


def default_rates(device: str, dtype: str) -> Rates:
    """The rates of a machine that was not calibrated.

    Those of a card come from the data sheet of a card of its compute capability: half of the FLOP/s and three quarters
    of the bandwidth, which large products and copies usually reach. A card of any other kind counts as a V100.

    Args:
        device: ``"cpu"``, or any other, which counts as a card.
        dtype: a name in ``fairseq_el.dtypes.DTYPES``.
    """
    if device == "cpu":
        return _CPU[dtype]
    sheet = DATA_SHEETS.get(_capability(device), DATA_SHEETS[_UNKNOWN_CARD])
    flops = sheet.flops["fp16" if dtype == "bf16" else dtype] / 2
    bandwidth = 0.75 * sheet.bandwidth
    # 10 us: the time in which torch queues one kernel.
    return Rates(dense=flops, shared=flops, bandwidth=bandwidth, stream=bandwidth, launch=10e-6)


def _capability(device: str) -> Tuple[int, int]:
    """The compute capability of the NVIDIA card that torch uses now; that of an unknown card where there is none."""
    if device != "cuda" or torch.version.hip is not None or not torch.cuda.is_available():
        return _UNKNOWN_CARD
    return torch.cuda.get_device_capability()


def rates_path() -> Path:
    """The calibration file."""
    chosen = os.environ.get("FAIRSEQ_EL_RATES")
    if chosen:
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "fairseq_el" / "rates.json"


def refuse_to_replace_others_file() -> None:
    """Checks, before anything is measured, that rates may be written to :func:`rates_path`.

    In the user's cache directory, the file is this package's, even if it is damaged.

    Raises:
        OptionError: :func:`save_rates` never wrote what is there.
    """
    path, chosen = rates_path(), bool(os.environ.get("FAIRSEQ_EL_RATES"))
    kind = kind_of(path)
    if kind not in (FILE, None):
        raise OptionError(f"rates are written to a file; {path} is {kind}. Name another in FAIRSEQ_EL_RATES")
    if kind is None or not chosen or path.stat().st_size == 0:
        return
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not {"version", "devices"} <= content.keys():
        raise OptionError(
            f"FAIRSEQ_EL_RATES must name a new file, or one that fairseq-el calibrate has written; {path} is "
            "another. Name another file, or remove it"
        )


def this_processor(device: str) -> Processor:
    """The processor that torch uses for a device now."""
    if device == "cpu":
        return Processor(processor_name(), torch.get_num_threads(), torch.__version__)
    return Processor(torch.cuda.get_device_name() if device == "cuda" else device, 0, torch.__version__)


def load_rates(device: str, dtype: str) -> Rates:
    """The rates that were measured on this machine, or else the default ones. A file that can't be used is logged.

    Args:
        device: ``"cpu"``, ``"cuda"`` or torch's name of another.
        dtype: a name in ``fairseq_el.dtypes.DTYPES``.
    """
    path, default = rates_path(), default_rates(device, dtype)
    if not os.path.lexists(path):
        return default
    try:
        found = _read(path).get(device)
        if found is None:
            return default
        here, there = this_processor(device), Processor(**found["processor"])
        if here != there:
            raise ValueError(f"measured on {_say(there)}; this is {_say(here)}")
        rates = {name: _rates(value) for name, value in found["rates"].items()}
    except _UNUSABLE as error:
        logger.warning("%s is not used: %s. To measure again: fairseq-el calibrate", path, _one_line(error))
        return default
    return rates.get(dtype, default)


def save_rates(device: str, rates: Mapping[str, Rates]) -> Path:
    """Writes the rates of a device, by dtype, and keeps those of other devices.

    The file is always whole: it is written under another name and takes the old one's place at the end.

    Returns:
        the file.

    Raises:
        OptionError: what is there is not a file of rates.
    """
    refuse_to_replace_others_file()
    path = rates_path()
    try:
        devices = dict(_read(path))
    except _UNUSABLE:
        devices = {}  # there is no file, or a damaged one
    devices[device] = {
        "processor": asdict(this_processor(device)),
        "rates": {dtype: asdict(value) for dtype, value in rates.items()},
    }
    text = json.dumps({"version": _VERSION, "devices": devices}, indent=2) + "\n"
    write_whole(path, lambda unfinished: unfinished.write_text(text, "utf-8"), replace=True)
    return path


def _read(path: Path) -> Dict[str, Any]:
    """The content of the file, by device."""
    content = read_json(path)
    if content["version"] != _VERSION:
        raise ValueError(f"it is of version {content['version']!r}, and {_VERSION} is read")
    devices: Dict[str, Any] = content["devices"]
    if not isinstance(devices, dict):
        raise TypeError("devices must be an object")
    return devices


def _rates(values: Mapping[str, Any]) -> Rates:
    rates = Rates(**{field.name: float(values[field.name]) for field in fields(Rates)})
    for name, value in asdict(rates).items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a positive number; got {value!r}")
    return rates


def _say(processor: Processor) -> str:
    threads = f" with {processor.threads} threads" if processor.threads else ""
    return f"{processor.name}{threads} and torch {processor.torch}"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
