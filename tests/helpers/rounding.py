"""Rounding that does not depend on the processor: hypotheses are then comparable to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _python_dispatch


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
