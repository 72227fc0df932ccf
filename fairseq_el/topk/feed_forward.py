"""The feed-forward part of fairseq's layers over the k largest hidden units of every token.

A layer computes ``fc2(dropout(activation(fc1(x))))``. With Top-k all of it is one operation, which ``fc2`` performs.
The others are the identity meanwhile. Parameters stay where they are.
"""

from __future__ import annotations

from typing import Any, List

from fairseq.modules import gelu
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fairseq_el.decoding import drops_out, has_hooks
from fairseq_el.ops import topk_feed_forward

_ACTIVATIONS = {F.relu: "relu", gelu: "gelu"}
_SAVED = "_topk_saved"


class IdentityFc1(nn.Linear):
    """The identity, with the parameters of ``fc1``: ``fc2`` of the layer computes both projections."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x``."""
        return x


class TopkFeedForward(nn.Linear):
    """A layer's ``fc2`` that computes both projections, activation and dropout, of ``k`` hidden units a token."""

    def forward(self, x: Tensor) -> Tensor:
        """Computes the feed-forward part of the layer. *Shape:* ``(..., d)`` to ``(..., d)``."""
        layer, k = self.__dict__["topk_layer"][0], self.__dict__["topk"]
        fc1, dropout = layer.fc1, layer._modules["activation_dropout_module"]
        activation = layer.__dict__[_SAVED]["activation_fn"]
        if k >= fc1.out_features:
            return super().forward(dropout(activation(F.linear(x, fc1.weight, fc1.bias))))
        return topk_feed_forward(
            x,
            fc1.weight,
            fc1.bias,
            self.weight,
            self.bias,
            k,
            activation=_ACTIVATIONS[activation],
            dropout=dropout.p if drops_out(dropout) else 0.0,
        )


def unsupported_by_topk(layer: Any) -> List[str]:
    """The reasons why the feed-forward part of a layer can't be Top-k; empty when it can."""
    reasons = []
    for name in ("fc1", "fc2"):
        module = getattr(layer, name)
        if type(module) not in (nn.Linear, IdentityFc1, TopkFeedForward):
            reasons.append(f"{name} is a {type(module).__name__}, not a plain nn.Linear")
        elif has_hooks(module):
            reasons.append(f"{name} has forward hooks")
    activation = layer.__dict__.get(_SAVED, {}).get("activation_fn", layer.activation_fn)
    if activation not in _ACTIVATIONS:
        reasons.append(f"its activation is {getattr(activation, '__name__', activation)}, not relu or gelu")
    if layer._modules["activation_dropout_module"].p >= 1:
        reasons.append("its dropout leaves nothing (--activation-dropout 1 or --relu-dropout 1)")
    if getattr(layer, "ffn_layernorm", None) is not None:
        reasons.append("there is a layer norm between its projections (--scale-fc)")
    return reasons


def enable_topk_feed_forward(layer: Any, k: int) -> None:
    """Makes the feed-forward part of a layer Top-k, in place; a second call changes ``k``."""
    if _SAVED not in layer.__dict__:
        layer.__dict__[_SAVED] = {"activation_fn": layer.activation_fn}
        # found before the submodule of the same name
        layer.__dict__.update(activation_fn=nn.Identity(), activation_dropout_module=nn.Identity())
        layer.fc1.__class__, layer.fc2.__class__ = IdentityFc1, TopkFeedForward
        layer.fc2.__dict__["topk_layer"] = (layer,)  # in a tuple: not a submodule of its own part
    layer.fc2.__dict__["topk"] = k


def is_topk_feed_forward(layer: Any) -> bool:
    """Returns whether the feed-forward part of a layer is Top-k."""
    return _SAVED in layer.__dict__


def disable_topk_feed_forward(layer: Any) -> None:
    """Puts the layer back as it was."""
    saved = layer.__dict__.pop(_SAVED, None)
    if saved is None:
        return
    layer.fc1.__class__ = layer.fc2.__class__ = nn.Linear
    del layer.__dict__["activation_dropout_module"]
    layer.__dict__.update(saved)
    for name in ("topk_layer", "topk"):
        del layer.fc2.__dict__[name]
