"""Native code that is interrupted, or finds no memory."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
import torch
from native_cases import EXACT, LENGTHS, WORDS, assert_same, both, generator_of, make
from rounding import rounded_alike
from searches import natively, skip_unless_compiled
from tiny import batch

extension = skip_unless_compiled()


class StopError(Exception):
    pass


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_ends_a_batch(threads, monkeypatch):
    """As Ctrl-C does. The first one is only noted, while the batch goes on; the second ends it.

    Without an end, the batch would take minutes.
    """
    noted, returned, original = threading.Event(), [], extension.decode

    def decode(*args: Any) -> Any:
        sender.start()
        result = original(*args)
        returned.append(result)
        return result

    def handle(number: int, frame: Any) -> None:
        if noted.is_set():
            raise StopError
        noted.set()

    def send() -> None:
        signal.raise_signal(signal.SIGUSR1)
        noted.wait()
        signal.raise_signal(signal.SIGUSR1)

    sender = threading.Thread(target=lambda: send(), daemon=True)
    monkeypatch.setattr(extension, "decode", decode)
    model = make(max_target_positions=3000)
    generator = generator_of(model, beam_size=5, min_len=2900, max_len_b=2900)
    before, known = torch.get_num_threads(), signal.signal(signal.SIGUSR1, handle)
    torch.set_num_threads(threads)
    try:
        with natively(), pytest.raises(StopError):
            generator.generate([model], batch(WORDS, [5] * 64, seed=3))
    finally:
        torch.set_num_threads(before)
        signal.signal(signal.SIGUSR1, known)
    assert returned == []
    monkeypatch.setattr(extension, "decode", original)
    with natively():  # nothing is broken
        assert len(generator_of(model).generate([model], batch(WORDS, LENGTHS, seed=3))) == 4


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: not enough memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_that_does_not_fit_is_decoded_in_halves(error, monkeypatch, caplog):
    generator, sizes, original = generator_of(make()), [], extension.decode
    expected = both(generator)[1]

    def decode(*args: Any) -> Any:
        sizes.append(len(args[2]))
        if sizes[-1] > 2:
            raise error
        return original(*args)

    monkeypatch.setattr(extension, "decode", decode)
    sample = batch(WORDS, LENGTHS, seed=3)
    with natively(), rounded_alike(torch.float64):
        found = generator.generate(list(generator.model.models), sample)
    assert_same(found, expected, **EXACT)
    assert sizes == [4, 2, 2] and "ran out of memory" in caplog.text


def test_another_error_of_native_code_is_not_hidden(monkeypatch):
    def decode(*args: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(extension, "decode", decode)
    model = make()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        generator_of(model).generate([model], batch(WORDS, LENGTHS, seed=3))
