"""Loading of fairseq checkpoints that builds objects of listed classes only.

A pickle can run any code. So torch 2.6 and later build only objects of classes that they know, and refuse fairseq's own
checkpoints. The classes that fairseq itself writes are plain containers of settings and statistics. They are listed
here and made known to torch. Whatever else is in a checkpoint is still refused.
"""

from __future__ import annotations

import argparse
import codecs
import collections
import functools
import pickle
import re
import typing
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple, Union

import numpy as np
import omegaconf
import omegaconf.base
import torch
from fairseq.logging import meters

from fairseq_el._compat import torch_version

SafeGlobal = Union[Any, Tuple[Any, str]]  # a class, or a class and the name that a pickle calls it by

_TORCH_REFUSES = torch_version() >= (2, 6)


def allow_fairseq_checkpoints() -> None:
    """Makes the classes that fairseq writes known to ``torch.load``. Before torch 2.6 it needs no such list."""
    if _TORCH_REFUSES:
        torch.serialization.add_safe_globals(list(_safe_globals()))


def load_listed_classes(path: Union[str, Path]) -> Any:
    """Loads a file of ``torch.save`` onto the CPU, and builds objects of the listed classes only, with every torch.

    Raises:
        pickle.UnpicklingError: the file needs other classes.
        Exception: torch and pickle raise many kinds for a file that is not a checkpoint.
    """
    if _TORCH_REFUSES:
        return torch.load(path, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", pickle_module=_ListedClasses)


class _ListedUnpickler(pickle._Unpickler):
    """Unpickler that builds objects of the listed classes, and tensors.

    It is the one in Python. Where memory is too small for a ``bytearray`` of the length that a damaged file gives, the
    one in C frees an object that is half made. CPython may then print a ``SystemError`` beside our message.
    """

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # of Python 2
        found = _listed().get(f"{module}.{name}")
        if found is None:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} was not an allowed global")
        return found


class _ListedClasses:
    """The part of the module ``pickle`` that ``torch.load`` uses, with the listed classes only."""

    Unpickler = _ListedUnpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _ListedUnpickler(file, **options).load()


@functools.lru_cache(maxsize=None)
def _listed() -> Dict[str, Any]:
    listed: Dict[str, Any] = {}
    for entry in _safe_globals():
        value, name = entry if isinstance(entry, tuple) else (entry, f"{entry.__module__}.{entry.__qualname__}")
        listed[name] = value
    rebuilders = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_qtensor")
    listed.update({f"torch._utils.{name}": getattr(torch._utils, name) for name in rebuilders})
    of_torch: Dict[str, Any] = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    of_torch.update({name: value for name, value in vars(torch).items() if name.endswith("Storage")})
    of_torch.update(Size=torch.Size, device=torch.device)
    listed.update({f"torch.{name}": value for name, value in of_torch.items()})
    for kind in (collections.OrderedDict, set, frozenset, bytearray, complex, slice):
        listed[f"{kind.__module__}.{kind.__name__}"] = kind
    listed["_codecs.encode"] = codecs.encode  # bytes, as Python 2's protocol has them
    return listed


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
    """Names the classes that kept a checkpoint from being loaded; none if the error had another cause.

    Args:
        path: the checkpoint.
        error: the exception of ``torch.load``. It names the first class; torch 2.6 and later can list all of them.
    """
    if not isinstance(error, pickle.UnpicklingError):
        return []
    named = re.findall(r"GLOBAL (\S+) was not an allowed", str(error))
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)) or named
    except Exception:  # an old torch, no zip file, or a pickle that breaks the reader
        return named
