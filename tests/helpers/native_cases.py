"""Models and generators for tests of native code."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import Any, Iterator

import torch
from searches import in_python, natively
from tiny import batch, build_model, dictionary
from torch.utils import _python_dispatch

import fairseq_el
from fairseq_el.generation import ELSequenceGenerator, choice

WORDS = dictionary()
EXACT = {"rtol": 0, "atol": 1e-10}
SOME = {"beam_size": 3, "max_len_b": 12}
LENGTHS = [5, 2, 7, 1]


class _RoundsAlike(_python_dispatch.TorchDispatchMode):
    """Every softmax, log-softmax and GELU of float32 numbers, computed in float64 and rounded once.

    fairseq computes these in float32, in models of float64 too, and so does native code. The last bit that torch gives
    them depends on the processor, on how far a row is padded, and on where in a tensor a number is. Here it does not.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _ROUNDED:
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = dict(kwargs or {})
        assert not any(args[2:])  # no other dtype
        out, dtype = kwargs.pop("out", None), kwargs.pop("dtype", None) or args[0].dtype
        numbers = args[0].to(dtype).double()
        exact = _ROUNDED[func](numbers, *args[1:2], **kwargs)
        return exact.to(dtype) if out is None else out.copy_(exact)


# Before autograd torch calls them by one name, and after it by another.
_ROUNDED = {
    getattr(operator, overload): function
    for names, function in (
        (("softmax", "_softmax"), torch.softmax),
        (("log_softmax", "_log_softmax"), torch.log_softmax),
        (("gelu",), torch.nn.functional.gelu),
    )
    for operator in (getattr(torch.ops.aten, name) for name in names)
    for overload in operator.overloads()
}


@contextmanager
def rounded_alike(dtype: torch.dtype) -> Iterator[None]:
    """Makes native code and the Python way comparable to the last bit, on every processor, for models of float64."""
    if dtype != torch.float64:
        yield
        return
    push = getattr(_python_dispatch, "push_torch_dispatch_mode", None)  # torch 1.12
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # only the calling thread rounds so
    try:
        with push(_RoundsAlike) if push else _RoundsAlike():
            yield
    finally:
        torch.set_num_threads(threads)


def make(arch: str = "transformer", dtype: torch.dtype = torch.float64, words: Any = WORDS, **options: Any) -> Any:
    model = build_model(arch, words, 6, dtype, **options)
    return fairseq_el.enable_el_attention(model.requires_grad_(False))


def generator_of(model: Any, words: Any = WORDS, **options: Any) -> Any:
    generator = ELSequenceGenerator([model], words, **{**SOME, **options})
    generator.record_attention = False
    return generator


def both(generator: Any, sample: Any = None, **given: Any) -> list[Any]:
    """Hypotheses that native code finds, and the Python way."""
    sample = batch(WORDS, LENGTHS, seed=3) if sample is None else sample
    dtype, results = next(generator.model.models[0].parameters()).dtype, []
    for way in (natively, in_python):
        with way(), rounded_alike(dtype):
            results.append(generator.generate(list(generator.model.models), sample, **given))
    return results


def tokens(found: Any) -> Any:
    return [[h["tokens"].tolist() for h in hypotheses] for hypotheses in found]


def assert_same(found: Any, expected: Any, **tolerance: float) -> None:
    """The same hypotheses. Words may only differ where scores show a tie: at every rank they are the same.

    With ``rtol=0``, words may not differ.
    """
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
        return
    assert [len(hypotheses) for hypotheses in found] == [len(hypotheses) for hypotheses in expected]
    for mine, theirs in zip(found, expected):
        is_same = [h["tokens"].tolist() for h in mine] == [h["tokens"].tolist() for h in theirs]
        assert is_same or tolerance["rtol"] > 0
        for my, their in zip(mine, theirs):
            torch.testing.assert_close(my["score"], their["score"], **tolerance)
            if is_same:
                torch.testing.assert_close(my["positional_scores"], their["positional_scores"], **tolerance)
                assert my["steps"] == their["steps"] and my["attention"].numel() == 0


def logged(monkeypatch: Any, caplog: Any, generator: Any, expected: Any = None, **given: Any) -> str:
    """What is said, once, about two batches that native code does not decode; they get the Python way's hypotheses."""
    monkeypatch.setattr(choice, "_logged", set())
    caplog.clear()
    models, sample = list(generator.model.models), batch(WORDS, LENGTHS, seed=3)
    with caplog.at_level(logging.INFO, logger=choice.__name__):
        found = [tokens(generator.generate(models, sample, **given)) for _ in range(2)]
    with in_python():
        assert found == [tokens(generator.generate(models, sample, **given))] * 2
    assert expected is None or found[0] == expected
    (message,) = [record.getMessage() for record in caplog.records if record.name == choice.__name__]
    return message.replace("A batch is not decoded by NativeSearch: ", "")
