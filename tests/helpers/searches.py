"""Batches decoded by one implementation of the step and no other."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator

import pytest

from fairseq_el import native
from fairseq_el.generation import choice
from fairseq_el.generation.native_search import NativeSearch
from fairseq_el.generation.reference_step import ReferenceStep
from fairseq_el.generation.static_search import StaticSearch

NOT_COMPILED = "the extension is not compiled here (pip install -v --no-build-isolation --no-deps -e .)"


def _nothing_else(rules: Any, batch: Any, decoders: Any) -> Any:
    pytest.fail(f"a batch is not decoded natively: {NativeSearch.refusal(rules, batch, decoders)}")


@contextmanager
def natively() -> Iterator[None]:
    """Native code decodes every batch, and a test fails where it refuses one."""
    with _steps(NativeSearch, _nothing_else):
        yield


@contextmanager
def in_python() -> Iterator[None]:
    with _steps(ReferenceStep):
        yield


@contextmanager
def in_place() -> Iterator[list[StaticSearch]]:
    """Steps stay in place, on any device, and a test fails where that is refused. Yields the searches of batches."""
    searches: list[StaticSearch] = []

    class OnAnyDevice(StaticSearch):
        any_device = True

        def __init__(self, *given: Any):
            super().__init__(*given)
            searches.append(self)

    def nothing_else(*given: Any) -> Any:
        pytest.fail(f"steps of a batch do not stay in place: {OnAnyDevice.refusal(*given)}")

    with _steps(OnAnyDevice, nothing_else):
        yield searches


@contextmanager
def _steps(*implementations: Any) -> Iterator[None]:
    known = list(choice.IMPLEMENTATIONS)
    choice.IMPLEMENTATIONS[:] = implementations
    try:
        yield
    finally:
        choice.IMPLEMENTATIONS[:] = known


def skip_unless_compiled() -> Any:
    """The extension; a test, or a module of tests, is skipped where there is none."""
    module = native.extension()
    if module is None:
        pytest.skip(NOT_COMPILED, allow_module_level=True)
    return module
