"""The programs that can be compared, and how the command line names them."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass, field
from typing import Any, List, Optional

from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import FairseqElError, OptionError

EXACT_DTYPES = ("fp32", "fp64")  # in these, EL-attention must write what stock writes
EL_KINDS = ("el", "shared-kv", "auto")
PYTHON = "python"  # after a colon: EL-attention without native code
INT8 = "int8"  # in the place of a dtype of EL-attention: fp32 with --el-weights int8
KINDS = ("stock", *EL_KINDS, "hf", "ct2")
EVERYTHING = ("stock", *EL_KINDS, "hf", "ct2:float32", "ct2:int8")
COMPUTE_TYPES = (
    "default", "auto", "float32", "float16", "bfloat16", "int16",
    "int8", "int8_float32", "int8_float16", "int8_bfloat16",
)  # fmt: skip
_PACKAGES = {"hf": "transformers", "ct2": "ctranslate2"}
_NAMES = (
    "stock, el, shared-kv, auto, the last three with :python if wanted, hf, ct2:TYPE, each but ct2 with @DTYPE if "
    "wanted, or all"
)


@dataclass(frozen=True)
class Method:
    """A program and the numbers it computes with.

    Attributes:
        kind: one of :data:`KINDS`.
        dtype: of weights and activations, one of :data:`DTYPES`, or :data:`INT8`; for ct2 the compute type, one of
            CTranslate2's own.
        inter: batches that ct2 decodes at a time.
        intra: threads that ct2 gives each of them; 0 for all there are.
        in_python: EL-attention decodes step by step in Python, where native code would do.
        may_be_missing: whether the user asked for ``all`` there is, and this one is left out if it does not work.
    """

    kind: str
    dtype: str
    inter: int = 1
    intra: int = 0
    in_python: bool = False
    may_be_missing: bool = field(default=False, compare=False)

    @property
    def label(self) -> str:
        if self.kind != "ct2":
            return f"{self.kind}{f':{PYTHON}' if self.in_python else ''}@{self.dtype}"
        threads = f":{self.inter}x{self.intra}" if self.intra else ""
        return f"ct2:{self.dtype}{threads}"

    @property
    def is_fairseq(self) -> bool:
        return self.kind == "stock" or self.kind in EL_KINDS

    @property
    def stock_dtype(self) -> str:
        """The dtype of the stock model that its outputs are compared with."""
        return "fp32" if self.kind == "ct2" or self.dtype == INT8 else self.dtype


STOCK = Method("stock", "fp32")  # the scores of all others are compared with its


def parse_methods(text: str, dtype: str) -> List[Method]:
    """The methods of ``--methods``, in order.

    Args:
        text: names with commas, or ``all``.
        dtype: of those that name none.

    Raises:
        OptionError: a name, a dtype or a compute type is unknown, or a method is named twice.
    """
    if text == "all":
        return [parse_method(name, dtype, may_be_missing=True) for name in EVERYTHING]
    methods = [parse_method(name.strip(), dtype) for name in text.split(",")]
    labels = [method.label for method in methods]
    for label in labels:
        if labels.count(label) > 1:
            raise OptionError(f"--methods names {label} {labels.count(label)} times; name each method once")
    return methods


def parse_method(name: str, dtype: str, may_be_missing: bool = False) -> Method:
    kind, _, details = name.partition(":")
    if kind == "ct2":
        return _parse_ctranslate(name, details, may_be_missing)
    program, _, own_dtype = name.partition("@")
    kind, colon, way = program.partition(":")
    if kind not in KINDS or (colon and (kind not in EL_KINDS or way != PYTHON)):
        raise OptionError(f"--methods must name methods out of {_NAMES}; got {name!r}")
    known = [*DTYPES, INT8] if kind in EL_KINDS else [*DTYPES]
    if (own_dtype or dtype) not in known:
        raise OptionError(f"the dtype of a method must be one of {', '.join(known)}; got {name!r}")
    return Method(kind, own_dtype or dtype, in_python=bool(colon), may_be_missing=may_be_missing)


def _parse_ctranslate(name: str, details: str, may_be_missing: bool) -> Method:
    compute_type, _, threads = details.partition(":")
    if compute_type not in COMPUTE_TYPES:
        raise OptionError(
            f"ct2 needs a compute type after the colon, one of {', '.join(COMPUTE_TYPES)}, as in ct2:int8; got {name!r}"
        )
    if not threads:
        return Method("ct2", compute_type, may_be_missing=may_be_missing)
    match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", threads)
    if match is None:
        raise OptionError(
            f"the threads of ct2 must be BATCHESxTHREADS, from 1 on, as in ct2:int8:2x1 for two batches at a time with "
            f"one thread each; got {name!r}"
        )
    return Method("ct2", compute_type, int(match[1]), int(match[2]))


def missing_package(method: Method) -> Optional[str]:
    """The package that a method needs and that is not installed."""
    package = _PACKAGES.get(method.kind)
    return package if package is not None and importlib.util.find_spec(package) is None else None


def optional_module(name: str) -> Any:
    """A module of a package that is an extra.

    Raises:
        FairseqElError: it can't be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise FairseqElError(
            f"{name} is needed and can't be imported ({error}): pip install fairseq_el[bench]"
        ) from error
