"""A model's ``nn.Linear`` modules while it decodes, computed in the way that is fastest for few rows."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from fairseq.modules import gelu
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fairseq_el.dtypes import dtype_name, place_of
from fairseq_el.ops import Int8Linear, PackedLinear, can_pack, why_no_int8
from fairseq_el.policy import is_packed_faster, should_pack

_ACTIVATIONS: Dict[Any, str] = {F.relu: "relu", gelu: "gelu"}
_FUNCTIONS = {"none": None, "relu": F.relu, "gelu": F.gelu}


class _Copy(NamedTuple):
    """A weight, packed or in 8 bits, and what it is a copy of."""

    versions: List[Tuple[int, int, torch.dtype]]
    size_bytes: int
    linear: Union[PackedLinear, Int8Linear]


class Linears:
    """Computes ``nn.Linear`` modules, each product from a packed copy of its weight where that is faster.

    In 8 bits every product is from such a copy, however many rows it has: a sentence's hypotheses do not depend on the
    sentences beside it.

    Copies belong to this object: nothing is added to the modules. A copy is made at the first use and checked at every
    later one against the parameter's storage and version, so that replacing or changing a weight in place is seen.
    Changes through ``.data``, as optimizers make them, are not seen. A caller that keeps a ``Linears`` beyond one
    batch must know that its model is not trained (see :func:`is_inference_only`).
    """

    def __init__(self, num_rows: int, num_uses: int = 0, int8: bool = False):
        """
        Args:
            num_rows: rows that most products will have, about.
            num_uses: products that there will be with each weight, about; few are not worth a copy, 0 makes none.
            int8: compute in 8 bits, if :func:`why_not_in_int8` has no objection to the model.
        """
        self.num_rows = num_rows
        self.num_uses = num_uses
        self.int8 = int8
        self._copies: Dict[Tuple[int, ...], _Copy] = {}

    def __call__(self, module: Any, x: Tensor, activation: Optional[Callable[[Tensor], Tensor]] = None) -> Tensor:
        """Computes ``activation(module(x))``. *Shape:* ``(..., in)`` to ``(..., out)``."""
        name = _ACTIVATIONS.get(activation) if activation is not None else "none"
        if name is None or (x.dtype == torch.float64 and name == "gelu"):  # fairseq's gelu rounds to float32
            return activation(self(module, x))  # type: ignore[misc]
        if self._copies_are_used((module,), x):
            return self._copy((module,))(x, name)
        function = _FUNCTIONS[name]
        return module(x) if function is None else function(module(x))

    def project_together(self, modules: Sequence[Any], x: Tensor) -> Tuple[Tensor, ...]:
        """Computes ``module(x)`` of several modules with as many outputs each; with a copy, they are one product."""
        if self._copies_are_used(modules, x):
            return self._copy(tuple(modules))(x).chunk(len(modules), dim=-1)
        return tuple(self(module, x) for module in modules)

    def once(self, module: Any, x: Tensor) -> Tensor:
        """Computes ``module(x)`` where that happens once a batch, which is not worth a packed copy."""
        output: Tensor = self(module, x) if self.int8 else module(x)
        return output

    def of_encoder(self, num_rows: int, num_uses: int) -> Linears:
        """Returns what computes one layer of the encoder; packed copies live as long as that."""
        return self if self.int8 else Linears(num_rows, num_uses)

    def size_bytes(self) -> int:
        """Bytes of the copies."""
        return sum(copy.size_bytes for copy in self._copies.values())

    def _copies_are_used(self, modules: Sequence[Any], x: Tensor) -> bool:
        """Returns whether ``x`` is multiplied by a copy of the weights of these modules together."""
        if torch.is_grad_enabled() or not all(is_plain_linear(module) for module in modules):
            return False
        if self.int8:
            return x.device.type == "cpu" and x.dtype == torch.float32
        if self.num_uses == 0 or not can_pack(x.device.type, x.dtype):
            return False
        dtype, width = dtype_name(x.dtype), x.size(-1)
        size = width * sum(module.out_features for module in modules)
        if not is_packed_faster(dtype, x.numel() // width, size):
            return False
        return tuple(map(id, modules)) in self._copies or should_pack(dtype, self.num_rows, size, self.num_uses)

    def _copy(self, modules: Tuple[Any, ...]) -> Union[PackedLinear, Int8Linear]:
        key = tuple(map(id, modules))
        parameters = [p for module in modules for p in (module.weight, module.bias) if p is not None]
        versions = [(p.data_ptr(), p._version, p.dtype) for p in parameters]
        known = self._copies.get(key)
        if known is None or known.versions != versions:
            if self.int8:
                in_int8 = Int8Linear(*_joined(modules))
                known = _Copy(versions, in_int8.size_bytes(), in_int8)
            else:
                size_bytes = sum(p.numel() * p.element_size() for p in parameters)
                known = _Copy(versions, size_bytes, PackedLinear(*_joined(modules), self.num_rows))
            self._copies[key] = known
        return known.linear


class JoinedLinears(Linears):
    """The same, but modules that are projected together are one product on every device, from copies of their weights.

    For a batch on a card, where every launch takes time. Copies are made at the first use and not checked later.
    """

    def __init__(self, linears: Linears):
        super().__init__(linears.num_rows, linears.num_uses, linears.int8)
        self._copies = linears._copies
        self._joined: Dict[Tuple[int, ...], Tuple[Tensor, Optional[Tensor]]] = {}

    def one_product(self, modules: Sequence[Any], x: Tensor) -> Tensor:
        """Computes ``module(x)`` of several modules, side by side. *Shape:* ``(..., in)`` to ``(..., m * out)``."""
        if not all(map(is_plain_linear, modules)):
            return torch.cat([module(x) for module in modules], dim=-1)
        if self._copies_are_used(modules, x):
            return self._copy(tuple(modules))(x)
        key = tuple(map(id, modules))
        if key not in self._joined:
            self._joined[key] = _joined(modules)
        return F.linear(x, *self._joined[key])

    def project_together(self, modules: Sequence[Any], x: Tensor) -> Tuple[Tensor, ...]:
        return self.one_product(modules, x).chunk(len(modules), dim=-1)

    def size_bytes(self) -> int:
        joined = (t for pair in self._joined.values() for t in pair if t is not None)
        return super().size_bytes() + sum(t.numel() * t.element_size() for t in joined)


def _joined(modules: Sequence[Any]) -> Tuple[Tensor, Optional[Tensor]]:
    """Weight and bias of one layer that has the outputs of all."""
    if len(modules) == 1:
        return modules[0].weight, modules[0].bias
    weight = torch.cat([module.weight for module in modules])
    if all(module.bias is None for module in modules):
        return weight, None
    return weight, torch.cat(
        [module.weight.new_zeros(module.out_features) if module.bias is None else module.bias for module in modules]
    )


def is_plain_linear(module: Any) -> bool:
    """Returns whether a module is ``x W^T + b`` and nothing else happens when it is called."""
    return type(module) is nn.Linear and not has_hooks(module)


def has_hooks(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def is_inference_only(model: nn.Module) -> bool:
    """Returns whether fairseq has prepared the model for inference, after which it can't be trained any more."""
    return bool(getattr(model, "_is_generation_fast", False))


def why_not_in_int8(model: nn.Module) -> str:
    """Returns why a model's linear layers can't be computed in 8 bits, or ``""`` if they can."""
    device, dtype = place_of(model)
    reason = why_no_int8(device.type)
    if not reason and dtype != torch.float32:
        reason = f"the model is in {str(dtype).replace('torch.', '')}, and must be in float32 (--el-dtype fp32)"
    return reason
