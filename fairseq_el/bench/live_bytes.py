"""The peak of the bytes that tensors hold while something runs."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from fairseq_el._torch_version import torch_version

# Before torch 2.1 a storage has no Python object that lives as long as it does.
CAN_TRACK = torch_version() >= (2, 1)


class PeakBytes(TorchDispatchMode):
    """Counts the storages that operators return, for as long as they live. What an operator uses inside is not seen.

    Tensors of another library, such as weights packed for oneDNN, show no storage. They are counted by their numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._peak = 0
        self._known: Any = weakref.WeakKeyDictionary()  # storages, counted or there before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            if not tensor.is_mkldnn:
                self._known.setdefault(tensor.untyped_storage(), None)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if tensor.is_mkldnn:  # made by packing, and handed on by nothing
                self._count(tensor, tensor.numel() * tensor.element_size())
                continue
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known[storage] = None
                self._count(storage, storage.nbytes())
        return result

    def _count(self, owner: Any, size: int) -> None:
        self._add(size)
        weakref.finalize(owner, self._add, -size)

    def _add(self, size: int) -> None:
        self.total += size
        self._peak = max(self._peak, self.total)

    def take(self) -> int:
        """The peak since this was last called."""
        peak, self._peak = self._peak, self.total
        return peak


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]
