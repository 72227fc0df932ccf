"""Loading fairseq checkpoints without unpickling freely.

From torch 2.6 on ``torch.load`` only builds objects of classes it knows, and refuses stock fairseq checkpoints. The
classes that fairseq itself writes into checkpoints are plain containers of settings and statistics; they are listed
here and made known to torch. Anything else in a checkpoint is still refused.
"""

from __future__ import annotations

import argparse
import collections
import pickle
import re
import typing
from typing import Any, Iterator, List, Tuple, Union

import numpy as np
import omegaconf
import omegaconf.base
import torch
from fairseq.logging import meters

SafeGlobal = Union[Any, Tuple[Any, str]]  # a class, or a class and the name that a pickle calls it by


def allow_fairseq_checkpoints() -> None:
    """Makes the classes that fairseq writes known to ``torch.load``, which before torch 2.6 knows no such limits."""
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) >= (2, 6):
        torch.serialization.add_safe_globals(list(_safe_globals()))


def _safe_globals() -> Iterator[SafeGlobal]:
    yield argparse.Namespace
    # settings as OmegaConf containers
    yield (typing.Any, "typing.Any")  # has no name of its own before Python 3.10
    yield from (collections.defaultdict, dict, list, int)
    yield from _classes_of(omegaconf, lambda c: issubclass(c, omegaconf.base.Node))
    yield from (omegaconf.base.ContainerMetadata, omegaconf.base.Metadata)
    # training statistics, under their present module name and the one before 2020
    for meter in _classes_of(meters, lambda c: c.__module__ == meters.__name__):
        yield meter
        yield (meter, f"fairseq.meters.{meter.__name__}")
    # numpy scalars and arrays (BLEU counts of --eval-bleu), under the module names of numpy 1 and 2
    rebuilders: List[Any] = [np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]
    for rebuild in rebuilders:
        for core in ("core", "_core"):
            yield (rebuild, f"numpy.{core}.multiarray.{rebuild.__name__}")
    yield from (np.dtype, np.ndarray)
    yield from {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}


def _classes_of(module: Any, wanted: Any) -> List[type]:
    return [value for value in vars(module).values() if isinstance(value, type) and wanted(value)]


def refused_classes(path: str, error: BaseException) -> List[str]:
    """The classes that kept a checkpoint from being loaded, by name; none if the error had another cause.

    Args:
        path: the checkpoint.
        error: what ``torch.load`` raised. It names the first class; torch 2.6 and later can list all of them.
    """
    if not isinstance(error, pickle.UnpicklingError):
        return []
    named = re.findall(r"GLOBAL (\S+) was not an allowed", str(error))
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)) or named
    except (AttributeError, OSError, RuntimeError, ValueError, pickle.UnpicklingError):  # old torch, or not a zip file
        return named
